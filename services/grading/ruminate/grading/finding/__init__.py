"""What stands in an answer: its words, its numbers, what it marks as its answer."""
