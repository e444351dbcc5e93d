"""A Kafka-protocol broker and an Ollama-compatible node for a machine that has neither."""
