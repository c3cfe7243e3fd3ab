"""From settings to a network: the feature graph, the segmenter, its weights."""
