"""Values and files that every room may use: no torch at import, no room imported."""
