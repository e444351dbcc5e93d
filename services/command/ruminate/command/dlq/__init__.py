"""`ruminate dlq`: dead letters for people; what stands, what it is, and how to settle it."""
