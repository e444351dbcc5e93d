"""Those who ask a model on a node."""
