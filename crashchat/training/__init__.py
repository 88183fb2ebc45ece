"""Data set, steps, checkpoints and resuming."""
