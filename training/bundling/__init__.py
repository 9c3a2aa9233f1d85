"""From a finished run to a bundle with its card."""
