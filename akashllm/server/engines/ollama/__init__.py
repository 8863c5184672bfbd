"""Ollama itself, as a supervised child."""
