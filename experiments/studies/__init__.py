"""Programs that answer one question each, by measuring."""
