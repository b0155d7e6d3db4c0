"""Quantized operators whose eager bodies are ONNX Runtime's arithmetic."""
