"""Where the time of an ONNX file goes, and why."""
