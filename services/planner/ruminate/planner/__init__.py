"""What a Qwen3 model needs of a GPU to be trained and served, and what to change where it does not fit."""
