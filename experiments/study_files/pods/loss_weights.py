"""How should the loss weigh units and eight codebooks, at the published size?"""

from experiments.studies.scales import POD
from experiments.study_files import loss_weights
from gpst_jax.studies.definition import Study


def get_study() -> Study:
    """The study; `--tokens` is of the layout of `gpst_190m`."""
    return loss_weights.make(POD, "4,2,1,1,1,1,1,1")
