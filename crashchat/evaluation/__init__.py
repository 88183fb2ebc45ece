"""Annotated questions -> prediction files -> scores."""
