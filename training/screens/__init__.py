"""A hospital's dual-view screens -> training pairs: B-mode beside the strain read off its colour overlay."""
