"""How operators are written in ONNX, and rewrites of the graph."""
