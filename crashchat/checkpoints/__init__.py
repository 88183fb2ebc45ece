"""Checkpoint folders and adapters of any layout: read, checked, merged, converted."""
