"""One file per kind of metric, what the kinds share, and the models they run."""
