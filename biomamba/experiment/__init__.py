"""An experiment from its config to what it leaves behind."""
