"""How should the loss weigh units and codebooks, and does a z-loss help?"""

from experiments.studies import demo_size
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
    cells = tuple(
        demo_size.trained(name, *overrides, "train.steps=500") for name, overrides in _CELLS.items()
    )
    return Study(
        name="loss_weights",
        question="How should the loss weigh units and codebooks?",
        cells=cells,
        figures=(demo_size.UNIT_BITS, demo_size.CODE_BITS, *demo_size.FIGURES[1:]),
        comparisons=(Comparison("uniform", tuple(name for name in _CELLS if name != "uniform")),),
        notes=(
            "Weights are in training alone: bits per second count every token once.",
            "500 steps, half of the demo's.",
        ),
        layout=demo_size.LAYOUT,
    )
