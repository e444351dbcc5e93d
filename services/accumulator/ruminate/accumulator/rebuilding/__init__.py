"""Datasets once more, out of the log, as they were or by another policy."""
