"""Quantized operators whose eager implementations match ONNX Runtime's arithmetic."""
