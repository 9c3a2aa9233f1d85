"""Tissue maps over real B-mode: layers that it shows, the lesion of its mask, stiffness by its label."""
