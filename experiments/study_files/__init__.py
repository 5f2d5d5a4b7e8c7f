"""Studies: each file defines one, which `experiments.study` runs (docs/studies.md)."""
