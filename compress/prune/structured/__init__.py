"""Structured pruning to a budget."""
