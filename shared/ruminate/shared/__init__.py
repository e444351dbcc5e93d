"""How Ruminate touches the world: bus, store, nodes, operations. No domain words."""
