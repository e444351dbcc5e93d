"""The four ways in which a batch teaches, each a recipe that reads in the order in which things happen."""
