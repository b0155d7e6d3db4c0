"""Record what layers of a model are given."""
