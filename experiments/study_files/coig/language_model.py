"""Does the language model answer better with more parameters, or with more dialogues?

Its written answers are its own; those that are heard pass through flow matching and the codec too.
"""

from data_pipeline.runtime import exit_codes
from experiments.studies.scales import ITEMS
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE
from gpst_jax.studies import calls
from gpst_jax.studies.definition import Call, Cell, Comparison, Study
from gpst_jax.studies.figures import FOLDER, RESULTS, JsonFigure, TrainingFigure

_TEXT = "{shared}/text_tokenizer"
# Width and layers, and questions of each voice in training.
_CELLS = {
    "3m": (256, 4, 240),
    "1m": (128, 4, 240),
    "9m": (384, 5, 240),
    "3m-half": (256, 4, 120),
    "3m-quarter": (256, 4, 60),
}


def get_study() -> Study:
    """The study; inputs are those of `make demo-coig`, `--run` is its flow matching."""
    cells = tuple(_cell(name, *sizes) for name, sizes in _CELLS.items())
    return Study(
        name="coig/language_model",
        question="Does the language model answer better with more parameters or more dialogues?",
        cells=cells,
        figures=(
            TrainingFigure("parameters", "parameters, millions", "parameters", 1e-6, 2),
            _right("written", "written answers that are right, %", "written"),
            _right("spoken", "spoken answers that are right, %"),
        ),
        comparisons=(Comparison("3m", tuple(name for name in _CELLS if name != "3m")),),
        notes=(
            "Toy dialogues, 600 steps each: the answer to a spoken question is three digits, all "
            "of which must be right. Written answers are the language model's alone; spoken ones "
            "are heard by the grammar of digits.",
            "Half and quarter: other questions and fewer of them, in the same voices and tokens.",
        ),
    )


def _cell(name: str, width: int, layers: int, questions: int) -> Cell:
    programs: tuple[Call, ...] = ()
    audio_dir, made = "{audio_dir}", "{tokens}"
    if questions != _CELLS["3m"][2]:
        (audio_dir, made), programs = _fewer(questions)
    sequences = f"{{shared}}/sequences{questions}"
    prepare = (
        Call(
            "text-tokenizer",
            "data_pipeline.fit_text_tokenizer",
            ("--source={tokens}", f"--output={_TEXT}", "--vocab_size=384"),
        ),
        *programs,
        Call(
            f"sequences-{questions}",
            "data_pipeline.build_sequences",
            (
                *(f"--tokens={made}", f"--output={sequences}", f"--text_tokenizer={_TEXT}"),
                *("--tasks=speech_to_speech", f"--dialogue={audio_dir}/dialogues.jsonl"),
                *("--system=", "--max_length=512", "--train_on=answer"),
            ),
            (exit_codes.OK, exit_codes.PARTIAL),
        ),
    )
    net = {"d_model": width, "num_layers": layers, "d_ff": round(width * 8 / 3 / 32) * 32}
    fields = (f"model.net.{field}={value}" for field, value in net.items())
    asked = calls.generate(
        *(f"--lm_workdir={calls.TRAINED}", "--mode=dialogue"),
        *("--dialogue={audio_dir}/dialogues.jsonl", f"--items={ITEMS}", "--unseen_items=0"),
        *("--flow_steps=4", "--flow_temperature=0.4", "--semantic_temperature=0.3"),
        run="{run}",
    )
    scored = calls.evaluate_samples(f"--wer={DIGITS_RECIPE}", "--mos_items=0")
    return Cell(
        name,
        "experiments/configs/coig_lm_demo.py",
        (*fields, "train.steps=600"),
        (asked, scored),
        prepare,
        sequences,
    )


def _fewer(questions: int) -> tuple[tuple[str, str], tuple[Call, ...]]:
    """A corpus of fewer questions and its tokens, and the programs that make them."""
    corpus, tokens = f"{{shared}}/corpus{questions}", f"{{shared}}/tokens{questions}"
    programs = (
        Call(
            f"corpus-{questions}",
            "data_pipeline.synthesize_corpus",
            (f"--output={corpus}", f"--questions_per_voice={questions}", "--seed=1"),
        ),
        Call(
            f"tokenise-{questions}",
            "data_pipeline.tokenize_corpus",
            (
                *(f"--audio_dir={corpus}", f"--transcripts={corpus}/manifest.csv"),
                *(f"--output={tokens}", "--semantic={tokens}/tokenizers/semantic"),
                "--codec={tokens}/tokenizers/codec",
            ),
        ),
    )
    return (corpus, tokens), programs


def _right(key: str, label: str, *part: str) -> JsonFigure:
    path = ("modes", "dialogue", "answers_correct", *part)
    return JsonFigure(key, label, f"{FOLDER}/{RESULTS}", path, 100.0, 0, "higher")
