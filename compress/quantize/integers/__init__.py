"""Choose the integers of a weight."""
