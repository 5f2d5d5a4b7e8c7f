"""Checkpoints: what is saved, how it is checked, and the record that describes a run."""
