"""Move scales between layers without changing an answer."""
