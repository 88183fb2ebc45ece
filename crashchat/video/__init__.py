"""A video file -> frames -> visual tokens, and the cache of their features."""
