"""`ruminate assess`: the assessor on a file, without any broker."""
