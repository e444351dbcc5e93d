"""The exam as it is sat in a training process: whoever speaks, and what is looked at in what is said."""
