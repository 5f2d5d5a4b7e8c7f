"""Command-line entry points. Each one is thin: the logic lives in gpst_jax and data_pipeline."""
