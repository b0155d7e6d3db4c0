"""The measuring process, and what else the machine does meanwhile."""
