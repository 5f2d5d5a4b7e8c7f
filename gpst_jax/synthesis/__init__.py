"""Speech from files and texts, without a dataset: `load` a model once, then `generate` with it."""
