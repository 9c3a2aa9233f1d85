"""Hostile input by the thousand: `python -m fuzz --cases 10000 --seed 1` from the tests' folder."""
