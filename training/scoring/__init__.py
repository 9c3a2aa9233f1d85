"""How good generated strain is, and against what."""
