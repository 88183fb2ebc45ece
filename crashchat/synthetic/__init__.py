"""Road scenes: what, how it goes, drawn, described, as clips."""
