"""Faults of geometry and labels in a dataset: each case is read once, and held against all the others."""
