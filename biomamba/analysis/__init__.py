"""What a rule costs and how near its gradient is to the exact one: counted, measured, estimated."""
