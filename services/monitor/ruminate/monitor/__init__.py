"""Windows over every topic: rates, ages, scores, ratios and lag."""
