"""Which rows are the same, which give something away, which are the best."""
