"""ONNX translation of operators, and graph rewrites."""
