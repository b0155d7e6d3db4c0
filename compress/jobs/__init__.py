"""Several recipes at once: processes, and turns for what is timed."""
