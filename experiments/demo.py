"""GPST from recordings to evaluated speech, on one machine.

    make demo
    make demo ARGS=--full     # unseen voices and sentences too, and Whisper's word errors
    make demo ARGS='--source=folder --audio_dir=DIR [--transcripts=FILE.csv]'

GPST learns to speak from units; where recordings have transcripts, a small language model learns to
turn texts into units, so that both together read texts aloud. Runs the public programs one after
another and prints each command first, so that any of them can be repeated by hand. Every step keeps
what it has finished: an interrupted demo resumes when started again. The results are `report.html`
and `report.json` in --workdir.
"""

from pathlib import Path

from absl import flags

from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.flag_rules import refuse
from experiments import config_flags
from experiments.demo_steps import SMOKE_TRAINING, Timings, check_config, read_json
from gpst_jax.evaluation.report.page import render_report
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE

_SOURCE = flags.DEFINE_enum(
    "source", "espeak", ["espeak", "folder"], "Synthetic speech, or recordings of your own."
)
_AUDIO_DIR = flags.DEFINE_string("audio_dir", None, "Recordings, for --source=folder.")
_TRANSCRIPTS = flags.DEFINE_string("transcripts", None, "CSV file of transcripts for --audio_dir.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Directory for all outputs.")
_CONFIG = config_flags.DEFINE_config(
    "config", "experiments/configs/gpst_demo.py", "Configuration of the training run."
)
_LM_CONFIG = config_flags.DEFINE_config(
    "lm_config", "experiments/configs/gpst_demo_lm.py", "Configuration of the language model."
)
_ITEMS = flags.DEFINE_integer("items", 100, "Items per mode, of seen speakers.", 1)
_UNSEEN = flags.DEFINE_integer(
    "unseen_items",
    None,
    "Items per mode, of unseen speakers; by default 60, but 0 of --source=espeak without --full.",
    0,
)
_FULL = flags.DEFINE_bool(
    "full",
    False,
    "Unseen voices and sentences beside seen voices and digits, and Whisper's word errors if it is "
    "installed.",
)
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "A small corpus, few steps and few items; takes minutes."
)
_NOT_FULL = (
    "sentences, and word errors by Whisper, which can judge them, are left out: "
    "make demo ARGS=--full adds them in some minutes"
)


def main(argv: list[str]) -> int:
    """Runs all steps; returns the exit code of the one that ended the demo."""
    del argv
    workdir = Path(_WORKDIR.value)
    _check_flags()
    corpus, tokens, run = workdir / "corpus", workdir / "tokens", workdir / "train"
    digits_alone = _SOURCE.value == "espeak" and not _FULL.value
    # Samples of both forms are kept: --full after a demo without it makes its own.
    samples = workdir / ("samples-full" if _FULL.value else "samples")
    results = workdir / "results.json"
    audio_dir, transcripts = _recordings(corpus)
    timings = Timings(workdir / "timings.json")

    if _SOURCE.value == "espeak":
        smoke = ["--utterances_per_voice=40", "--valid_per_voice=4", "--unseen_per_voice=6"]
        call = ["data_pipeline.synthesize_corpus", f"--output={corpus}"]
        # The training reads 1.4 hours. Every ninth text is a sentence: four of each voice to
        # hear, 40 in all.
        sizes = ["--utterances_per_voice=300", "--valid_per_voice=36"]
        timings.run("corpus", [*call, *(smoke if _SMOKE.value else sizes)])

    call = ["data_pipeline.tokenize_corpus", f"--audio_dir={audio_dir}", f"--output={tokens}"]
    call.append(f"--exclude={workdir}")  # samples, where it is below the recordings
    if transcripts:
        call.append(f"--transcripts={transcripts}")
    timings.run("tokenise", call, accept=(exit_codes.OK, exit_codes.PARTIAL))

    _check_splits(tokens)
    train_json = workdir / "train.json"
    small = SMOKE_TRAINING if _SMOKE.value else ()
    call = ["experiments.pretrain", *_CONFIG.as_flags(f"data.path={tokens}", *small)]
    timings.run("pretrain", [*call, f"--workdir={run}", f"--json_out={train_json}"])
    language = _train_language_model(workdir, tokens, timings) if transcripts else None

    items, unseen = (6, 4) if _SMOKE.value else (_ITEMS.value, _unseen_items(digits_alone))
    call = ["experiments.generate", f"--workdir={run}", f"--audio_dir={audio_dir}"]
    call += [f"--lm_workdir={language}"] if language else []
    call += [f"--output={samples}", f"--items={items}", f"--unseen_items={unseen}"]
    call += ["--sentences=0"] if digits_alone else []  # whose words Whisper alone can judge
    timings.run("generate", call)

    call = ["experiments.evaluate", f"--samples={samples}", f"--json_out={results}"]
    call.append(f"--wer={DIGITS_RECIPE}" if digits_alone else "--wer_items=20")
    call.append("--mos_items=3" if _SMOKE.value else "--mos_items=20")
    timings.run("evaluate", call, accept=(exit_codes.OK, exit_codes.PARTIAL))

    merged = merge_results(read_json(results), read_json(train_json), timings.rounded())
    if digits_alone:
        reason = _NOT_FULL if unseen else f"unseen voices, {_NOT_FULL}"
        merged["left_out"] = [*merged.get("left_out", []), reason]
    if language:
        trained = read_json(Path(f"{language}.json"))
        merged["train"]["language_model"] = {k: trained[k] for k in ("steps", "parameters")}
    write_json(workdir / "report.json", merged)
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, merged)
    page = workdir / "report.html"
    render_report(merged, samples, run / "metrics.jsonl", page, "GPST demo: speech in, speech out")
    timings.finish(workdir)
    return 0


def _train_language_model(workdir: Path, tokens: Path, timings: Timings) -> Path:
    """Trains text to units on the transcripts; returns the run."""
    text, sequences, run = workdir / "text_tokenizer", workdir / "sequences", workdir / "train_lm"
    if not text.exists():
        call = ["data_pipeline.fit_text_tokenizer", f"--source={tokens}", f"--output={text}"]
        timings.run("text tokenizer", [*call, "--vocab_size=384"])
    call = ["data_pipeline.build_sequences", f"--tokens={tokens}", f"--output={sequences}"]
    call += ["--tasks=tts", f"--text_tokenizer={text}", "--system=", "--max_length=512"]
    timings.run(
        "sequences", [*call, "--train_on=answer"], accept=(exit_codes.OK, exit_codes.PARTIAL)
    )
    small = SMOKE_TRAINING if _SMOKE.value else ()
    call = ["experiments.pretrain", *_LM_CONFIG.as_flags(f"data.path={sequences}", *small)]
    timings.run("language model", [*call, f"--workdir={run}", f"--json_out={run}.json"])
    return run


def merge_results(evaluation: dict, train: dict, timings: dict[str, float]) -> dict:
    """The content of report.json: evaluation, training and the seconds that each step took.

    Args:
        evaluation: what experiments.evaluate wrote.
        train: what experiments.pretrain wrote.
        timings: seconds by step.
    """
    final = train["final"]
    codebooks = sum(name.startswith("eval/nll_acoustic_q") for name in final)
    return evaluation | {
        "timings_s": timings,
        "train": {
            "steps": train["steps"],
            "parameters": train["parameters"],
            # A call that finds the run already finished measures no rate.
            "tokens_per_s": train.get("tokens_per_s", final.get("perf/tokens_per_s")),
            "final_nll_semantic": final.get("eval/nll_semantic"),
            "final_nll_acoustic": [final[f"eval/nll_acoustic_q{q}"] for q in range(codebooks)],
        },
    }


def _check_flags() -> None:
    """Checks all that later steps are given, before the first; raises UserError."""
    if _SOURCE.value == "espeak":
        refuse(("audio_dir", "transcripts"), "is for --source=folder, which it must stand with")
    for flag in (_AUDIO_DIR, _TRANSCRIPTS):
        if flag.value and not Path(flag.value).exists():
            raise UserError(f"--{flag.name}={flag.value}: no such file or directory")
    if _SMOKE.value:
        refuse(("items", "unseen_items"), "is fixed by --smoke: leave one of them out")
    check_config(_CONFIG)
    check_config(_LM_CONFIG)


def _unseen_items(left_out: bool) -> int:
    if _UNSEEN.value is not None:
        return _UNSEEN.value
    return 0 if left_out else 60


def _check_splits(tokens: Path) -> None:
    """Raises UserError where no recording could be held out: nothing would be left to generate."""
    found = read_json(tokens / "dataset.json") if (tokens / "dataset.json").is_file() else {}
    splits = found.get("splits", {})
    if not {"train", "valid"} <= splits.keys():
        count = sum(split["num_records"] for split in splits.values())
        raise UserError(
            f"{tokens} holds {count} recordings, too few to hold one out for validation: with 5 or "
            "more, one is; add recordings and give another --workdir"
        )


def _recordings(corpus: Path) -> tuple[Path, Path | None]:
    """Where the recordings are, and the CSV file that describes them."""
    if _SOURCE.value == "espeak":
        return corpus, corpus / "manifest.csv"
    if not _AUDIO_DIR.value:
        raise UserError("--audio_dir is missing: --source=folder needs a directory of recordings")
    return Path(_AUDIO_DIR.value), Path(_TRANSCRIPTS.value) if _TRANSCRIPTS.value else None


if __name__ == "__main__":
    cli.run(main)
