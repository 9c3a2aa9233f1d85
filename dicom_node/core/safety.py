"""What every result has to say, wherever it is said: synthetic must never look measured."""

from __future__ import annotations

_FIRST_WORDS = "AI SYNTHETIC"


def begins_synthetic(series_description: str) -> bool:
    """Does a Series Description begin with the words that viewers show first?"""
    return series_description.upper().startswith(_FIRST_WORDS)
