"""The edge: associations in and out."""
