"""What `medfuse VERB` does: one file per verb. `medfuse.cli` only parses its arguments."""
