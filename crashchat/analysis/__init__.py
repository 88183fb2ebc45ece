"""Clips and recordings -> results and reports."""
