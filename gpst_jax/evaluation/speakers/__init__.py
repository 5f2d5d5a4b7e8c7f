"""Encoders of voices: their recipes, and the network that no package carries."""
