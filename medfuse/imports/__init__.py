"""Others' models in medfuse's words; none of their code."""
