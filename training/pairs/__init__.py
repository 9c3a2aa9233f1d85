"""Pairs of B-mode and strain: on disk, in memory, from DICOM."""
