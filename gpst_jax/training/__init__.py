"""The training loop: start reading at `loop.py`, then `step.py`."""
