"""`ruminate datasets`: the batches of each chain, whether they are whole, and how to make them again."""
