"""`ruminate plan`: what a model needs of a GPU, and what to change where it does not fit."""
