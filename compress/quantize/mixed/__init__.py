"""A scheme for each group of layers."""
