"""Benchmarks of speed and memory against peers; each case runs in its own process."""
