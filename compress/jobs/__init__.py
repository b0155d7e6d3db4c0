"""Running several recipes at once, each in its own processes."""
