"""Record the inputs of a model's layers."""
