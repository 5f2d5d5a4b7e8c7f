"""Does noise, a narrow band or mp3 in the prompt or in the source reach the speech?"""

from experiments.studies.scales import ITEMS, SCORED, TRANSFER, TRANSFER_WORDS
from gpst_jax.studies import calls
from gpst_jax.studies.definition import Call, Cell, Comparison, Study

_HOW = ("snr20", "snr10", "snr0", "8khz", "mp3")
_MODE = "speaker_transfer"


def get_study() -> Study:
    """The study; `--run` is scored on the recordings of its dataset."""
    degraded = tuple(_cell(what, how) for what in ("prompt", "source") for how in _HOW)
    return Study(
        name="noise",
        question="Does noise in the prompt or in the source reach the speech?",
        cells=(_cell("both", "clean"), *degraded),
        figures=(TRANSFER, TRANSFER_WORDS),
        seeds=(0, 1, 2),
        comparisons=(Comparison("both-clean", tuple(cell.name for cell in degraded)),),
        notes=(
            "Speaker transfer of held-out digit strings, from files; white noise at 20, 10 and "
            "0 dB, 8 kHz, mp3 of its lowest quality.",
            "References are the clean recordings: words those of the text, the voice that of "
            "another recording of the prompt's speaker through the codec.",
            "Seeds are those of noise and sampling: the model is one.",
        ),
    )


def _cell(what: str, how: str) -> Cell:
    clean = "{shared}/clean"
    prepare = Call(
        "clean",
        "experiments.generate",
        (
            *("--workdir={run}", "--dataset={tokens}", "--audio_dir={audio_dir}"),
            *(f"--output={clean}", f"--mode={_MODE}", f"--items={ITEMS}", "--unseen_items=0"),
        ),
    )
    degrade = Call(
        "degrade",
        "experiments.studies.degraded",
        (
            *(f"--samples={clean}/{_MODE}", "--output={cell}"),
            *(f"--what={what}", f"--how={how}", "--seed={seed}"),
        ),
    )
    generate = Call(
        "generate",
        "experiments.generate",
        (
            *("--workdir={run}", "--dataset={tokens}"),
            *("--manifest={cell}/requests.jsonl", "--output={cell}/made"),
        ),
    )
    scored = calls.evaluate_samples(*SCORED)
    return Cell(f"{what}-{how}", calls=(degrade, generate, scored), prepare=(prepare,))
