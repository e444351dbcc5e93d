"""Trains, merges and exports one adapter a sealed batch."""
