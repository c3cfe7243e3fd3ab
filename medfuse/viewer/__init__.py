"""Pages that show scans with their labels in three planes and in 3-D, offline, in any browser."""
