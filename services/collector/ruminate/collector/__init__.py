"""Takes interactions in, validates and normalises them, drops duplicates, records them."""
