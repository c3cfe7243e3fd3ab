"""Where weights come from, in words."""

from medfuse.api import Origin


def said(origin: Origin) -> str:
    """`facebook/dinov2-small@1a2b (apache-2.0)`."""
    return f"{origin.source} ({origin.license or 'its licence is not told'})"
