"""From an interval to the files of a dataset."""
