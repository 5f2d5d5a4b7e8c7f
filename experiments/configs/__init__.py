"""One file per run. The docstring gives the command, the hardware and the expected numbers."""
