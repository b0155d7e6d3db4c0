"""Encoding of texts and images as numbers."""
