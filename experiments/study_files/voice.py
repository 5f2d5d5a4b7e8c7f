"""Does fine-tuning on a speaker raise similarity beyond a prompt of three seconds?

Recordings of a voice that `make demo` holds out are synthesised; the run is fine-tuned on some of
them and speaks the units of the others, whose texts are not among these, with a prompt of three
seconds from another recording of the voice.
"""

from experiments.studies.scales import SCORED
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE
from gpst_jax.studies import calls
from gpst_jax.studies.definition import Call, Cell, Comparison, Study
from gpst_jax.studies.figures import RecipeFigure

_VOICE = "f3"
_CONDITION = "speaker_transfer_unseen"
_SIMILARITY = "sim-o/resemblyzer-smoke"


def get_study() -> Study:
    """The study; `--run` and `--tokens` are the demo's."""
    return make(recordings=150, seconds=180.0, steps=300)


def make(recordings: int, seconds: float, steps: int) -> Study:
    """The study of one size.

    Args:
        recordings: of the voice, to synthesise.
        seconds: of them to fine-tune on.
        steps: of fine-tuning.
    """
    prepare = _prepare(recordings, seconds)
    tune = Call(
        "finetune",
        "experiments.finetune",
        (
            *("--checkpoint={run}", "--workdir={cell}/tuned", "--method=full"),
            *("--source=manifest:{shared}/recordings/voice.csv", f"--steps={steps}"),
            *("--learning_rate=1e-3", "--config.train.seed={seed}", "--config.data.seed={seed}"),
        ),
    )
    alone = Cell("prompt-alone", calls=_spoken("{run}", recordings), prepare=prepare)
    tuned = Cell(
        "fine-tuned",
        calls=(tune, *_spoken("{cell}/tuned/train", recordings)),
        prepare=prepare,
    )
    return Study(
        name="voice",
        question="Does fine-tuning on three minutes of a voice beat a prompt of three seconds?",
        cells=(alone, tuned),
        figures=(
            RecipeFigure("similarity", "similarity to the prompt", _SIMILARITY, _CONDITION),
            RecipeFigure(
                *("words", "word errors, %", DIGITS_RECIPE, _CONDITION, 100.0, 1, "lower")
            ),
        ),
        comparisons=(Comparison(alone.name, (tuned.name,)),),
        notes=(
            f"One synthetic voice ({_VOICE}), held out of training: intervals are over its "
            "recordings, and cover no other voices.",
            f"{seconds:g} s of recordings, {steps} steps of all parameters at 1e-3.",
        ),
    )


def _prepare(recordings: int, seconds: float) -> tuple[Call, ...]:
    corpus = "{shared}/recordings"
    return (
        Call(
            "recordings",
            "data_pipeline.synthesize_corpus",
            (
                *(f"--output={corpus}", "--seed=1000", "--utterances_per_voice=1"),
                *("--valid_per_voice=1", f"--unseen_per_voice={recordings}"),
            ),
        ),
        Call(
            "divide",
            "experiments.studies.voice",
            (f"--recordings={corpus}", f"--voice={_VOICE}", f"--seconds={seconds:g}"),
        ),
        Call(
            "tokenise",
            "data_pipeline.tokenize_corpus",
            (
                *(f"--source=manifest:{corpus}/heldout.csv", "--output={shared}/heldout"),
                *(f"--{kind}={{tokens}}/tokenizers/{kind}" for kind in ("semantic", "codec")),
            ),
        ),
    )


def _spoken(run: str, recordings: int) -> tuple[Call, ...]:
    """Speaker transfer of the held-out recordings, scored."""
    return (
        Call(
            "generate",
            "experiments.generate",
            (
                *(f"--workdir={run}", "--dataset={shared}/heldout", "--output={cell}/samples"),
                *(f"--audio_dir={{shared}}/recordings/audio/{_VOICE}", "--mode=speaker_transfer"),
                *("--items=0", f"--unseen_items={recordings}", "--seed={seed}"),
            ),
        ),
        calls.evaluate_samples(*SCORED, f"--similarity_items={recordings}"),
    )
