"""What does a language cost that was not in training?

Synthetic voices speak English, German and Spanish. One model is trained on two of the languages,
one on all three, with the same tokenizers, which heard the two; both speak Spanish.
"""

from experiments.studies.scales import DEMO, ITEMS, similarity, words
from gpst_jax.studies import calls
from gpst_jax.studies.definition import Call, Cell, Comparison, Study
from gpst_jax.studies.figures import LikelihoodFigure

_WORDS = "wer/whisper-base-basic"  # a recogniser that knows the languages
_HELD_OUT = "es"
# Utterances of a voice in each language: two languages have as many as three.
_TRAINED_ON = {"two": ("en,de", 285), "three": ("en,de,es", 190)}
_TOKENIZERS = "{shared}/two/tokens/tokenizers"


def get_study() -> Study:
    """The study; it makes its own corpora."""
    steps = f"train.steps={DEMO.steps}"
    cells = tuple(
        Cell(
            name,
            DEMO.config,
            (*DEMO.base, steps),
            (_scored(),),
            (*_made("two"), *_made("three"), *_held_out()),
            f"{{shared}}/{name}/tokens",
        )
        for name in _TRAINED_ON
    )
    return Study(
        name="languages",
        question="What does a language cost that was not in training?",
        cells=cells,
        figures=(
            LikelihoodFigure(),
            words("semantic_to_acoustic", "word errors, units to speech, %", _WORDS),
            words("speaker_transfer", "word errors, speaker transfer, %", _WORDS),
            similarity("speaker_transfer", "similarity to the prompt's voice"),
        ),
        comparisons=(Comparison("three", ("two",)),),
        notes=(
            *DEMO.notes,
            "Synthetic Spanish of the training voices, scored by Whisper base, which misses half "
            "of such recordings themselves (docs/results.md): bits per second say more.",
            "`two` heard English and German, `three` also Spanish; both as many utterances.",
        ),
        layout=DEMO.layout,
    )


def _made(name: str) -> tuple[Call, ...]:
    languages, utterances = _TRAINED_ON[name]
    given = () if name == "two" else _with_tokenizers()
    return _corpus(name, languages, utterances, given)


def _held_out() -> tuple[Call, ...]:
    # Other texts than those of the training: another seed.
    return _corpus(_HELD_OUT, _HELD_OUT, 12, _with_tokenizers(), 1)


def _with_tokenizers() -> tuple[str, ...]:
    return tuple(f"--{kind}={_TOKENIZERS}/{kind}" for kind in ("semantic", "codec"))


def _corpus(
    name: str, languages: str, utterances: int, flags: tuple[str, ...], seed: int = 0
) -> tuple[Call, ...]:
    corpus = f"{{shared}}/{name}/corpus"
    sizes = (f"--utterances_per_voice={utterances}", "--valid_per_voice=12")
    return (
        Call(
            f"speak-{name}",
            "data_pipeline.synthesize_corpus",
            (f"--output={corpus}", f"--languages={languages}", *sizes, f"--seed={seed}"),
        ),
        Call(
            f"tokenise-{name}",
            "data_pipeline.tokenize_corpus",
            (
                *(f"--audio_dir={corpus}", f"--transcripts={corpus}/manifest.csv"),
                *(f"--output={{shared}}/{name}/tokens", *flags),
            ),
        ),
    )


def _scored() -> Call:
    return calls.evaluate_run(
        *(f"--items={ITEMS}", f"--wer={_WORDS}", f"--wer_items={ITEMS}", "--mos_items=0"),
        tokens=f"{{shared}}/{_HELD_OUT}/tokens",
        audio_dir=f"{{shared}}/{_HELD_OUT}/corpus",
    )
