"""Parity of our models with golden tensors of the official code, family by family."""
