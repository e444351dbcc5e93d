"""What is learned of an interaction after it was judged."""
