"""How large a model for how much training? Five sizes at three budgets, and the IsoFLOP fit."""

from experiments.studies.scales import BITS, DEMO, PARAMETERS, SCORED
from gpst_jax.studies.definition import Study
from gpst_jax.studies.isoflop import IsoFLOP

# Width and layers of the global and of the local transformer: 1 to 30 million parameters.
_SIZES = {
    "1m": (128, 4, 64, 2),
    "2m": (192, 4, 96, 2),
    "4m": (256, 4, 128, 2),
    "10m": (384, 5, 160, 2),
    "30m": (576, 7, 192, 3),
}
_BUDGETS = {"low": 0.5, "middle": 1.0, "high": 2.0}  # as shares of `DEMO.steps`


def get_study() -> Study:
    """The study; `--tokens` and `--audio_dir` are the demo's."""
    cells = tuple(
        DEMO.trained(
            f"{size}-{budget}",
            *_overrides(size, share),
            scored=("--task=seen-voices", "--items=1", *SCORED),
        )
        for budget, share in _BUDGETS.items()
        for size in _SIZES
    )
    return Study(
        name="sizes",
        question="How many parameters for how many training FLOPs?",
        cells=cells,
        figures=(PARAMETERS, BITS),
        seeds=(0,),
        analyses=(IsoFLOP(BITS, PARAMETERS),),
        notes=(
            "Every cell of a budget has the same training FLOPs; the warm-up is a twentieth of "
            "the steps, learning rates are those of the demo for every size.",
            "The demo's 2.5 hours are read more than once, which the published law does not know.",
        ),
        layout=DEMO.layout,
    )


def _overrides(size: str, share: float) -> tuple[str, ...]:
    wide, deep, narrow, shallow = _SIZES[size]
    values = {
        "global_net.d_model": wide,
        "global_net.num_layers": deep,
        "global_net.d_ff": round(wide * 8 / 3 / 32) * 32,
        "local_net.d_model": narrow,
        "local_net.num_layers": shallow,
        "local_net.d_ff": round(narrow * 8 / 3 / 32) * 32,
    }
    fields = [f"model.{name}={value}" for name, value in values.items()]
    made = DEMO.equal(*fields, share=share)
    steps = int(made[-1].rpartition("=")[2])
    return (*made, f"optimizer.warmup_steps={max(1, steps // 20)}")
