"""What can be cut in a model, as data."""
