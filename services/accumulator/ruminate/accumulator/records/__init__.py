"""What one record becomes: its row, what is known of it, its names, and which of them are to be forgotten."""
