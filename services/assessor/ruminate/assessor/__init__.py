"""Judges the thinking and the answer of each recorded interaction."""
