"""A run: its folder, its split, its stages."""
