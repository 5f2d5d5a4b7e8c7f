"""The on-disk contract: `dataset.json`, length indices and records."""
