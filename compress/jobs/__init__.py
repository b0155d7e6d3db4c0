"""Several recipes at once, each in processes of its own."""
