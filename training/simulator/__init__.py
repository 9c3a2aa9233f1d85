"""Simulated pairs: anatomy, stiffness, strain by finite elements, speckle B-mode."""
