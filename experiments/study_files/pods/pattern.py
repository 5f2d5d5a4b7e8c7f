"""Hierarchical, flat, delayed or parallel codes at the published size, at equal training FLOPs?"""

from experiments.studies.scales import POD
from experiments.study_files import pattern
from gpst_jax.studies.definition import Study


def get_study() -> Study:
    """The study; `--tokens` is of the layout of `gpst_190m`."""
    # A crop of 10 s in one line: 500 units and 750 frames of 8 codes.
    return pattern.make(POD, flat=("model.max_positions=6656",))
