"""How should the loss weigh units and codebooks, and does a z-loss help?"""

from experiments.studies.scales import CODE_BITS, DEMO, UNIT_BITS, Scale
from gpst_jax.studies.definition import Comparison, Study

_CELLS = {
    "uniform": (),
    "geometric": ("model.codebook_weights=geometric:0.5",),
    "moshi": ("model.codebook_weights=moshi",),
    "list": ("model.codebook_weights=4,2,1,1",),
    "units-double": ("model.semantic_weight=2",),
    "units-half": ("model.semantic_weight=0.5",),
    "z-loss": ("model.z_loss=1e-4",),
}


def get_study() -> Study:
    """The study; `--tokens` and `--audio_dir` are the demo's."""
    return make(DEMO, "4,2,1,1")


def make(scale: Scale, weights: str) -> Study:
    """The study at a scale.

    Args:
        scale: of its cells.
        weights: of the codebooks, in the cell `list`.
    """
    overrides = _CELLS | {"list": (f"model.codebook_weights={weights}",)}
    steps = f"train.steps={scale.steps}"
    cells = tuple(scale.trained(name, *fields, steps) for name, fields in overrides.items())
    return Study(
        name=scale.name("loss_weights"),
        question="How should the loss weigh units and codebooks?",
        cells=cells,
        figures=(UNIT_BITS, CODE_BITS, *scale.figures[1:]),
        comparisons=(Comparison("uniform", tuple(name for name in _CELLS if name != "uniform")),),
        notes=(
            *scale.notes,
            "Weights are in training alone: bits per second count every token once.",
        ),
        layout=scale.layout,
    )
