"""The runtimes that a file is measured in."""
