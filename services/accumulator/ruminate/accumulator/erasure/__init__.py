"""What has to be forgotten, and what it leaves of a dataset."""
