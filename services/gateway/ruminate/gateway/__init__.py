"""Ollama- and OpenAI-compatible front door that captures every interaction."""
