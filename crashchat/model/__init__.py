"""Sequences, packing, masks and attention, and the model that they feed."""
