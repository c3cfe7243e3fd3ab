"""Volumes on disk: one file per format, and a front that reads and writes any of them."""
