"""The crash campaign: faults drawn at random against a real node, and a count of what is missing after it."""
