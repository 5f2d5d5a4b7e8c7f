"""What does the local transformer lose where it skips frames in training (local-drop)?"""

from experiments.studies import demo_size
from gpst_jax.studies.definition import Comparison, Study

_RATES = (0.0, 0.5, 0.75, 0.9375)


def get_study() -> Study:
    """The study; `--tokens` and `--audio_dir` are the demo's."""
    flops = demo_size.budget(500)
    cells = tuple(
        demo_size.trained(
            f"drop{rate:g}", *demo_size.at_budget(flops, f"model.local_drop={rate:g}"), place=rate
        )
        for rate in _RATES
    )
    return Study(
        name="local_drop",
        question="How much of the frames may the local transformer skip in training?",
        cells=cells,
        figures=(demo_size.STEP_SECONDS, *demo_size.FIGURES),
        comparisons=(Comparison(cells[0].name, tuple(cell.name for cell in cells[1:])),),
        axis="local-drop",
        notes=(
            "All cells have equal training FLOPs, so that a higher rate trains more steps; "
            "seconds per step say what that is in time on the machine named below.",
        ),
        layout=demo_size.LAYOUT,
    )
