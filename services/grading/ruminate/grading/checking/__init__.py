"""An answer against a reference, the exact text, a JSON Schema, Python tests."""
