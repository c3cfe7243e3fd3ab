"""From volumes to label maps: windows, accumulation, export to the input's geometry."""
