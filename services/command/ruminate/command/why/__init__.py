"""`ruminate why`: the lineage of a row, an interaction, an event or a model version, walked both ways."""
