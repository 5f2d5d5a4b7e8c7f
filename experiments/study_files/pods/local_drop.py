"""What does the local transformer lose with local-drop, at the published size?"""

from experiments.studies.scales import POD
from experiments.study_files import local_drop
from gpst_jax.studies.definition import Study


def get_study() -> Study:
    """The study; `--tokens` is of the layout of `gpst_190m`."""
    return local_drop.make(POD)
