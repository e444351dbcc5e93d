"""What stands in the texts of an interaction."""
