"""What a model knows of its own limits: which frames are familiar to it, and how sure it is."""
