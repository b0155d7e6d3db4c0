"""modelpress: compression recipes in, verified ONNX bundles and honest reports out."""

__version__ = "0.1.0"
