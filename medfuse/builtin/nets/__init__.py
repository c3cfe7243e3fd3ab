"""The torch modules of built-in plugins: apart from them, so that reading a pipeline loads no torch."""
