"""The generator that turns breast B-mode into synthetic strain elastograms, and the bundle that holds it."""
