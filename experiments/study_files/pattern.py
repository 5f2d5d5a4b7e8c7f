"""Hierarchical, flat, delayed or parallel codes, at equal training FLOPs?"""

from experiments.studies.scales import DEMO, ENDS, STEP_SECONDS, Scale
from gpst_jax.studies.definition import Comparison, Study

_PATTERNS = ("hierarchical", "flat", "delay", "parallel")


def get_study() -> Study:
    """The study; `--tokens` and `--audio_dir` are the demo's."""
    return make(DEMO)


def make(scale: Scale, flat: tuple[str, ...] = ()) -> Study:
    """The study at a scale.

    Args:
        scale: of its cells.
        flat: overrides of `flat`, whose line is the longest.
    """
    extra = {"flat": flat}
    cells = tuple(
        scale.trained(
            name,
            *scale.equal(f"model.pattern={name}", *extra.get(name, ())),
            scored=scale.scored_whole,
        )
        for name in _PATTERNS
    )
    return Study(
        name=scale.name("pattern"),
        question="Should the codes of a frame be hierarchical, flat, delayed or parallel?",
        cells=cells,
        figures=(STEP_SECONDS, *scale.figures, ENDS),
        comparisons=(Comparison("hierarchical", _PATTERNS[1:]),),
        notes=(
            *scale.notes,
            "Equal training FLOPs. Bits per second compare, since all predict the same tokens; "
            "those of `parallel` ignore what the codes of a frame say about each other.",
        ),
        layout=scale.layout,
    )
