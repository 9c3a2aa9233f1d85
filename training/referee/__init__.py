"""The second simulator: other layouts, other speckle, another solver. It judges, and is never learnt from."""
