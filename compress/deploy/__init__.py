"""Code for deployed programs; needs only onnxruntime, tokenizers and numpy."""
