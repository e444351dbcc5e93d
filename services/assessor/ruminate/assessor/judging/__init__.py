"""From what was found and is known to a verdict."""
