"""A learner for programs without this library: one file that predicts and learns, and what it is called with."""
