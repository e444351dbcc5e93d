"""Brings every Ollama node to the trained version and registers it."""
