"""How large a model for how much training? Five sizes at three budgets, and the IsoFLOP fit."""

from experiments.studies import demo_size
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
_BUDGETS = {"low": 250, "middle": 500, "high": 1000}  # in steps of the demo


def get_study() -> Study:
    """The study; `--tokens` and `--audio_dir` are the demo's."""
    cells = tuple(
        demo_size.trained(f"{size}-{budget}", *_overrides(size, steps), items=1)
        for budget, steps in _BUDGETS.items()
        for size in _SIZES
    )
    return Study(
        name="sizes",
        question="How many parameters for how many training FLOPs?",
        cells=cells,
        figures=(demo_size.PARAMETERS, demo_size.BITS),
        seeds=(0,),
        analyses=(IsoFLOP(demo_size.BITS, demo_size.PARAMETERS),),
        notes=(
            "Every cell of a budget has the same training FLOPs; the warm-up is a twentieth of "
            "the steps, learning rates are those of the demo for every size.",
            "The demo's 2.5 hours are read more than once, which the published law does not know.",
        ),
        layout=demo_size.LAYOUT,
    )


def _overrides(size: str, demo_steps: int) -> tuple[str, ...]:
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
    made = demo_size.at_budget(demo_size.budget(demo_steps), *fields)
    steps = int(made[-1].rpartition("=")[2])
    return (*made, f"optimizer.warmup_steps={max(1, steps // 20)}")
