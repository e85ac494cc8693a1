"""What the user points at, turned into page images. Knows nothing of models or of outputs."""
