"""Tasks whose answer is a number: regression, and reranking by it."""
