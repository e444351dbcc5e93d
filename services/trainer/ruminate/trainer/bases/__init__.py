"""Bases small enough for a laptop: one that knows nothing (`tiny`), and one that calculates and thinks (`small`)."""
