"""Importance of heads, neurons and layers, as data and pages."""
