"""What do semantic units in front of the frames give, at equal training FLOPs?"""

from experiments.studies.scales import BITS, CODE_BITS, DEMO, ENDS, PARAMETERS, similarity
from gpst_jax.studies.definition import Comparison, Study

_CONTINUED = similarity("continuation", "similarity of a continuation to the speaker")


def get_study() -> Study:
    """The study; `--tokens` and `--audio_dir` are the demo's."""
    # A row holds one segment of 5 s in both cells: without units it is half as long.
    cells = (
        DEMO.trained("front", *DEMO.equal(), scored=DEMO.scored_whole),
        DEMO.trained(
            "none",
            *DEMO.equal("data.units=none", "data.sequence_length=256"),
            scored=DEMO.scored_whole,
        ),
    )
    return Study(
        name="units",
        question="What do units in front of the frames give?",
        cells=cells,
        figures=(PARAMETERS, BITS, CODE_BITS, _CONTINUED, ENDS),
        comparisons=(Comparison("front", ("none",)),),
        notes=(
            *DEMO.notes,
            "Equal training FLOPs. Bits per second of both streams compare: a model of frames "
            "alone predicts less, from less. Those of the codes are given the units in "
            "`front`.",
            "`none` has the modes unconditional, continuation and speech continuation; its "
            "continuation is given no words.",
        ),
        layout=DEMO.layout,
    )
