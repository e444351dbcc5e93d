"""What crosses a topic: payloads, topics and the flow between them."""
