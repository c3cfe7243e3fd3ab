"""From label maps to knowledge: metrics, pictures, HTML."""
