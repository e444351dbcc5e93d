"""`ruminate eval`: versions side by side, on your own questions."""
