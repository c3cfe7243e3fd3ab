"""How far a label map is to be trusted that nobody has drawn by hand: scores, and what they foretell."""
