"""Hierarchical, flat, delayed or parallel codes, at equal training FLOPs?"""

from experiments.studies import demo_size
from gpst_jax.studies.definition import Comparison, Study

_PATTERNS = ("hierarchical", "flat", "delay", "parallel")


def get_study() -> Study:
    """The study; `--tokens` and `--audio_dir` are the demo's."""
    flops = demo_size.budget(1000)
    cells = tuple(
        demo_size.trained(name, *demo_size.at_budget(flops, f"model.pattern={name}"))
        for name in _PATTERNS
    )
    return Study(
        name="pattern",
        question="Should the codes of a frame be hierarchical, flat, delayed or parallel?",
        cells=cells,
        figures=(demo_size.STEP_SECONDS, *demo_size.FIGURES),
        comparisons=(Comparison("hierarchical", _PATTERNS[1:]),),
        notes=(
            "Equal training FLOPs: those of 1,000 steps of the demo. Bits per second compare, "
            "since all predict the same tokens; those of `parallel` ignore what the codes of a "
            "frame say about each other.",
        ),
        layout=demo_size.LAYOUT,
    )
