"""What does the local transformer lose where it skips frames in training (local-drop)?"""

from experiments.studies.scales import DEMO, STEP_SECONDS, Scale
from gpst_jax.studies.definition import Comparison, Study

_RATES = (0.0, 0.5, 0.75, 0.9375)


def get_study() -> Study:
    """The study; `--tokens` and `--audio_dir` are the demo's."""
    return make(DEMO)


def make(scale: Scale) -> Study:
    """The study at a scale."""
    cells = tuple(
        scale.trained(f"drop{rate:g}", *scale.equal(f"model.local_drop={rate:g}"), place=rate)
        for rate in _RATES
    )
    return Study(
        name=scale.name("local_drop"),
        question="How much of the frames may the local transformer skip in training?",
        cells=cells,
        figures=(STEP_SECONDS, *scale.figures),
        comparisons=(Comparison(cells[0].name, tuple(cell.name for cell in cells[1:])),),
        axis="local-drop",
        notes=(
            *scale.notes,
            "All cells have equal training FLOPs, so that a higher rate trains more steps; "
            "seconds per step say what that is in time on the machine named below.",
        ),
        layout=scale.layout,
    )
