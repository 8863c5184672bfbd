"""What a model is, told from its file."""
