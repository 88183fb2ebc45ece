"""What a training takes, worked out before anything is loaded: memory, operations, time, money."""
