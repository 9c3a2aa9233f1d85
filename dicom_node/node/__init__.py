"""Composition root: turns a configuration into running parts. Knows everybody; nobody knows it."""
