"""Training of the offline tokenizers."""
