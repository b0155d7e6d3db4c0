"""The measuring process, and the load on the machine while it runs."""
