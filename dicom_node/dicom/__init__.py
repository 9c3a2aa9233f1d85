"""Bytes to arrays and back: reading, judging and building DICOM objects, without network or SQL."""
