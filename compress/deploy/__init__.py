"""What runs in a deployed program: onnxruntime, tokenizers and numpy alone."""
