"""Does reading aloud gain from pretraining on text and units in turns, at equal steps?

The language model of GPST's text-to-speech is trained on texts read aloud alone, on these and units
without text, and on these and sequences in which spans of text and of units take turns.
"""

from data_pipeline.runtime import exit_codes
from experiments.studies.scales import ITEMS, SCORED, similarity, words
from gpst_jax.studies import calls
from gpst_jax.studies.definition import Call, Cell, Comparison, Study

_TASKS = {
    "tts": "tts",
    "tts-and-units": "pretrain,tts",
    "tts-and-turns": "interleaved,tts",
}
_TEXT = "{shared}/text_tokenizer"


def get_study() -> Study:
    """The study; `--run` is the demo's."""
    return Study(
        name="coig/interleaving",
        question="Does reading aloud gain from text and units in turns?",
        cells=tuple(_cell(name, tasks) for name, tasks in _TASKS.items()),
        figures=(
            words("tts", "word errors, text to speech, %"),
            similarity("tts", "similarity to the prompt's voice"),
        ),
        comparisons=(Comparison("tts", ("tts-and-units", "tts-and-turns")),),
        notes=(
            "The language model of `make demo` for 450 steps, each cell as many; the units "
            "are spoken by one acoustic model. In the cells of two tasks half of the sequences are "
            "of each.",
            "Turns are of two words on average; a word ends at its share of the letters.",
        ),
    )


def _cell(name: str, tasks: str) -> Cell:
    sequences = f"{{shared}}/{name}"
    prepare = (
        Call(
            "text-tokenizer",
            "data_pipeline.fit_text_tokenizer",
            ("--source={tokens}", f"--output={_TEXT}", "--vocab_size=384"),
        ),
        Call(
            f"sequences-{name}",
            "data_pipeline.build_sequences",
            (
                *("--tokens={tokens}", f"--output={sequences}", f"--text_tokenizer={_TEXT}"),
                *(f"--tasks={tasks}", "--system=", "--max_length=512", "--train_on=answer"),
                "--span_words=2",
            ),
            (exit_codes.OK, exit_codes.PARTIAL),
        ),
    )
    generated = calls.generate(
        *(f"--lm_workdir={calls.TRAINED}", "--mode=tts", f"--items={ITEMS}", "--unseen_items=0"),
        run="{run}",
    )
    return Cell(
        name,
        "experiments/configs/gpst_demo_lm.py",
        ("train.steps=450",),
        (generated, calls.evaluate_samples(*SCORED)),
        prepare,
        sequences,
    )
