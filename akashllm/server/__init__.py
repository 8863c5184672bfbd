"""What runs in the images: one FastAPI service over any engine. Imports nothing from the command line."""
