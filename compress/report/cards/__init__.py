"""README files of bundles, and the program that runs one."""
