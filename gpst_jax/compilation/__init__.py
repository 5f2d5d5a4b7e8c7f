"""Ahead-of-time compilation for absent TPUs, and what the compiled program says."""
