"""Where do parameters help: in the global or in the local transformer, as depth or as width?"""

from experiments.studies.scales import DEMO
from gpst_jax.studies.definition import Comparison, Study


def _net(which: str, width: int, layers: int) -> tuple[str, ...]:
    """Overrides of one transformer; the hidden width of its gated MLP is about 8/3 of it."""
    hidden = round(width * 8 / 3 / 32) * 32
    values = {"d_model": width, "num_layers": layers, "d_ff": hidden}
    return tuple(f"model.{which}.{name}={value}" for name, value in values.items())


# About the same number of parameters in both transformers together, see the page's column.
_CELLS = {
    "balanced": (*_net("global_net", 256, 4), *_net("local_net", 128, 2)),
    "deep-global": (*_net("global_net", 192, 7), *_net("local_net", 128, 2)),
    "wide-global": (*_net("global_net", 352, 2), *_net("local_net", 128, 2)),
    "large-local": (*_net("global_net", 224, 3), *_net("local_net", 192, 4)),
    "large-global": (*_net("global_net", 288, 4), *_net("local_net", 32, 1)),
}


def get_study() -> Study:
    """The study; `--tokens` and `--audio_dir` are the demo's."""
    cells = tuple(DEMO.trained(name, *DEMO.equal(*overrides)) for name, overrides in _CELLS.items())
    return Study(
        name="depth_and_width",
        question="Where do parameters help: global or local, depth or width?",
        cells=cells,
        figures=DEMO.figures,
        comparisons=(Comparison("balanced", tuple(name for name in _CELLS if name != "balanced")),),
        notes=(
            *DEMO.notes,
            "Equal training FLOPs; the local transformer of `large-global` is as good as removed "
            "(one layer of width 32).",
        ),
        layout=DEMO.layout,
    )
