"""Real peers for tests: Orthanc, DCMTK, and the images that are sent to them."""
