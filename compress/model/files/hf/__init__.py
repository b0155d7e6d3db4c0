"""Hugging Face directories: what may be loaded, and how it is read."""
