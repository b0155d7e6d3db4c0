"""Move scales between layers without changing outputs."""
