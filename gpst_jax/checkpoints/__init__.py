"""Checkpoints: saving, restoring, integrity checks, and the record that describes a run."""
