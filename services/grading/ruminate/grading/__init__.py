"""Whether an answer is right, where that can be found out."""
