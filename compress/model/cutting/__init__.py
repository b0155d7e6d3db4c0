"""Make a model physically smaller."""
