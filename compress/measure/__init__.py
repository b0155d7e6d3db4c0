"""Honest measurement of ONNX files with ONNX Runtime."""
