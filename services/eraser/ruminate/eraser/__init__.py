"""Eraser: takes out of the log what has to be forgotten, and says when it is gone."""
