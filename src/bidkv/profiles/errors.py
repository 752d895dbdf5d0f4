"""What goes wrong when a profile is read."""

from __future__ import annotations


class ProfileError(ValueError):
    """A profile that does not exist or does not hold what it must; the message names file and field."""
