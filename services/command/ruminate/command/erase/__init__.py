"""`ruminate erase`: ask that something is forgotten, and see how far it is."""
