"""Trained networks: loaded, run over cases, looked into, and as a function for other programs."""
