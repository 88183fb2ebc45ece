"""Annotations, predictions and journals; no torch."""
