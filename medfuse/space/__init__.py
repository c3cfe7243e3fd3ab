"""What may be searched: the `search:` section of a pipeline file, and the values that a key may take."""
