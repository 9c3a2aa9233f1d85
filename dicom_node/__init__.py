"""A DICOM node that turns breast ultrasound B-mode images into synthetic strain elastography."""
