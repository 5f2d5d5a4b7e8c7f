"""Lengths to a packing plan; touches no record."""
