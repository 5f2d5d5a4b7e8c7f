"""Fitting of k-means units and of the offline tokenizers."""
