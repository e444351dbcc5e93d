"""`ruminate train`, `pause` and `resume`: what is trained, what waits and why, and an operator's word about it."""
