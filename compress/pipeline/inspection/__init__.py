"""What `modelpress inspect` measures of a model: attention, silencing curves, the cost of quantization."""
