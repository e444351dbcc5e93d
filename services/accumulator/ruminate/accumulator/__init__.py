"""Turns assessed interactions into a chain of balanced, versioned training batches."""
