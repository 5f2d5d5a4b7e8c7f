"""The published block against the modern one, Muon against AdamW, at equal training FLOPs."""

from experiments.studies.scales import DEMO
from gpst_jax.studies.definition import Comparison, Study

_PAPER = (
    "model.block=paper",
    # Two matrices of 1.5 times the width have the parameters of a gated MLP's three.
    "model.global_net.d_ff=1008",
    "model.local_net.d_ff=528",
    "data.positions=running",  # the paper's block knows no other
)
_COLLAPSED = ("data.deduplicate=true",)
_ADAMW = ("optimizer.name=adamw",)


def get_study() -> Study:
    """The study; `--tokens` and `--audio_dir` are the demo's."""
    made = {
        "modern-muon": (),
        "modern-adamw": _ADAMW,
        "paper-muon": (*_PAPER, *_COLLAPSED),
        "paper-adamw": (*_PAPER, *_COLLAPSED, *_ADAMW),
        "paper-repeated-muon": _PAPER,
    }
    cells = tuple(DEMO.trained(name, *DEMO.equal(*overrides)) for name, overrides in made.items())
    others = tuple(name for name in made if name != "modern-muon")
    return Study(
        name="block_and_optimizer",
        question="Which block, which optimiser, which positions?",
        cells=cells,
        figures=DEMO.figures,
        comparisons=(
            Comparison("modern-muon", others),
            Comparison("paper-muon", ("paper-adamw", "paper-repeated-muon")),
        ),
        notes=(
            *DEMO.notes,
            "`paper` is the block of GPST with its learned running positions and collapsed "
            "units; `paper-repeated` keeps repeated units. Learning rates are those of the "
            "demo, not tuned for each.",
            "Bits per second of collapsed units leave out durations: they do not compare with "
            "the others.",
        ),
        layout=DEMO.layout,
    )
