"""People look at what a model said of clips: queue, decisions, and the way back to annotations."""
