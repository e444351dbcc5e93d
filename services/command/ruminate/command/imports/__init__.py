"""`ruminate import`: what was answered elsewhere, read from files of others and put on its topic."""
