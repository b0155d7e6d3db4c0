"""README files of bundles, with the code snippet that runs one."""
