"""Numerical parity with golden tensors of the official code, by model family."""
