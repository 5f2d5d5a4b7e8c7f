"""Is one stage better than a recogniser, text to speech and the same codec one after another?"""

from experiments.studies.scales import ITEMS, SCORED, TRANSFER, TRANSFER_WORDS
from gpst_jax.studies import calls
from gpst_jax.studies.definition import Call, Cell, Comparison, Study

_MODE = "speaker_transfer"
_CLEAN = "{shared}/clean"


def get_study() -> Study:
    """The study; `--run` and `--lm_run` are the demo's."""
    return Study(
        name="cascade",
        question="Does one stage beat a cascade of recognition and reading aloud?",
        cells=(_one_stage(), _cascade("heard"), _cascade("true")),
        figures=(TRANSFER, TRANSFER_WORDS),
        comparisons=(Comparison("one-stage", ("cascade-heard", "cascade-true")),),
        notes=(
            "The same held-out digit strings in the same voices: from their units, from the text "
            "that the grammar of digits hears in the recording, and from the true text, read by "
            "the language model and the same acoustic model.",
            "The recogniser of the cascade is that of the score, which favours the cascade.",
        ),
    )


def _prepare() -> tuple[Call, ...]:
    made = Call(
        "clean",
        "experiments.generate",
        (
            *("--workdir={run}", "--dataset={tokens}", "--audio_dir={audio_dir}"),
            *(f"--output={_CLEAN}", f"--mode={_MODE}", f"--items={ITEMS}", "--unseen_items=0"),
        ),
    )
    heard = Call(
        "heard",
        "experiments.evaluate",
        (
            *(f"--samples={_CLEAN}", f"--items_out={_CLEAN}.jsonl", "--similarity_items=0"),
            *(*SCORED, "--cache_dir={shared}/measured"),
        ),
    )
    return made, heard


def _one_stage() -> Cell:
    generated = calls.generate(
        f"--mode={_MODE}", f"--items={ITEMS}", "--unseen_items=0", run="{run}"
    )
    return Cell("one-stage", calls=(generated, calls.evaluate_samples(*SCORED)))


def _cascade(text: str) -> Cell:
    asked = Call(
        "ask",
        "experiments.studies.cascade",
        (
            *(f"--samples={_CLEAN}/{_MODE}", f"--items={_CLEAN}.jsonl", "--output={cell}"),
            *(f"--text={text}", "--seed={seed}"),
        ),
    )
    made = Call(
        "generate",
        "experiments.generate",
        (
            *("--workdir={run}", "--lm_workdir={lm_run}", "--dataset={tokens}"),
            *("--manifest={cell}/requests.jsonl", "--output={cell}/made"),
        ),
    )
    scored = calls.evaluate_samples(*SCORED)
    return Cell(f"cascade-{text}", calls=(asked, made, scored), prepare=_prepare())
