"""Ahead-of-time compilation for TPUs, and cost analysis of the compiled program."""
