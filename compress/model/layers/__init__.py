"""Layers whose weights are not float32, and placeholders for removed ones."""
