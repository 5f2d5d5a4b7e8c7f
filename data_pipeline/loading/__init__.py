"""Plan and records to batches."""
