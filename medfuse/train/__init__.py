"""From batches to weights: the loop and its objective."""
