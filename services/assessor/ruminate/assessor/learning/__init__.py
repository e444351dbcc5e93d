"""What the combiner of a tenant learns from what turned out."""
