"""A search: trials of one pipeline in many forms, and an honest word on the best of them."""
