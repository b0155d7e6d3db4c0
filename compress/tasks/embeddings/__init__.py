"""Sentence embeddings, judged by the original's vectors, by pairs with scores, or by a search."""
