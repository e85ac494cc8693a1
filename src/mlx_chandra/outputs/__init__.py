"""What the model said, turned into what the user keeps. Knows nothing of models or of pages."""
