"""The machine: its cores, files, locks and signals."""
