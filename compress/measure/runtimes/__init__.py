"""Runtimes that a file is measured in."""
