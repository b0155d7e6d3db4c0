"""Mixed precision: one scheme per group of layers."""
