"""Planning: from a dataset, a machine and minutes to a pipeline file, every value with its reason."""
