"""Corpus to token dataset: shards, runners, and what finishes them."""
