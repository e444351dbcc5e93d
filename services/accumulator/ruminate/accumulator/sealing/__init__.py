"""When a batch is cut: chains, reasons, pauses."""
