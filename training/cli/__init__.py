"""`emode-train`: simulate pairs, fit a generator, evaluate it, export a bundle."""
