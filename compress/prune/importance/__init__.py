"""Importance scores of units."""
