"""Semantic tokenizers: audio to units."""
