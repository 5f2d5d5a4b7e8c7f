"""Does fine-tuning on one voice bring more of it than a prompt of three seconds?

    python -m experiments.voice_study --demo=runs/demo --workdir=DIR [--voice=f3] [--seconds=180]

Synthesises recordings of a voice that `make demo` holds out, with texts that its evaluation lacks,
fine-tunes the demo's model on them, and lets both models speak the demo's held-out items in that
voice, from the same prompts. Similarity to the prompt and word errors of both come with 95 %
intervals, and so do their differences on the same items, in `study.json` in --workdir. What is
finished is kept: interrupt and start again.
"""

import csv
import json
from pathlib import Path
from typing import Any

import soundfile
from absl import flags

from data_pipeline import cli
from experiments.demo_steps import Timings, read_scores, word_errors
from gpst_jax.evaluation import statistics
from gpst_jax.evaluation.statistics import Estimate

_DEMO = flags.DEFINE_string("demo", "runs/demo", "Directory of a finished `make demo`.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for everything made.", required=True)
_VOICE = flags.DEFINE_string("voice", "f3", "A voice of the split `unseen`.")
_SECONDS = flags.DEFINE_float("seconds", 180.0, "Recordings to fine-tune on.", 1.0)
_METHOD = flags.DEFINE_enum("method", "lora", ("full", "lora"), "Of fine-tuning.")
_STEPS = flags.DEFINE_integer("steps", 200, "Of fine-tuning.", 1)
_ITEMS = flags.DEFINE_integer("items", 120, "Held-out items, before choosing the voice.", 4)
_CONDITION = "speaker_transfer_unseen"


def main(argv: list[str]) -> int:
    """Synthesises, fine-tunes, generates, measures and writes the results."""
    del argv
    workdir, demo = Path(_WORKDIR.value), Path(_DEMO.value)
    timings = Timings(workdir / "timings.json")
    recordings, tuned = workdir / "recordings", workdir / "tuned"
    call = ["data_pipeline.synthesize_corpus", f"--output={recordings}", "--seed=1000"]
    call += ["--utterances_per_voice=1", "--valid_per_voice=1", "--unseen_per_voice=150"]
    timings.run("recordings", call)
    seconds = _choose(recordings, demo / "corpus" / "manifest.csv")

    call = ["experiments.finetune", f"--checkpoint={demo / 'train'}", f"--workdir={tuned}"]
    call += [f"--source=manifest:{recordings / 'voice.csv'}", f"--method={_METHOD.value}"]
    timings.run("fine-tune", [*call, f"--steps={_STEPS.value}"])

    models = {"prompt alone": demo / "train"}
    models["fine-tuned"] = tuned / ("merged" if _METHOD.value == "lora" else "train")
    scores = {name: _measure(timings, workdir, demo, name, run) for name, run in models.items()}
    results: dict[str, Any] = {name: _figures(items) for name, items in scores.items()}
    results["difference"] = _differences(scores["fine-tuned"], scores["prompt alone"])
    results |= {"voice": _VOICE.value, "seconds": round(seconds, 1), "steps": _STEPS.value}
    cli.write_json(workdir / "study.json", results | {"timings_s": timings.rounded()})
    print(json.dumps(results, indent=2))
    return 0


def _choose(recordings: Path, demo_manifest: Path) -> float:
    """Writes voice.csv, recordings of the voice with texts that the demo lacks; their seconds."""
    with demo_manifest.open(newline="") as file:
        known = {row["text"] for row in csv.DictReader(file) if row["split"] == "unseen"}
    with (recordings / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["speaker"] == _VOICE.value]
    if not rows:
        raise cli.UserError(f"--voice={_VOICE.value}: the corpus has no such voice")
    chosen, seconds = [], 0.0
    for row in rows:
        if row["text"] in known or seconds >= _SECONDS.value:
            continue
        seconds += soundfile.info(recordings / row["path"]).duration
        chosen.append({"path": row["path"], "speaker": row["speaker"], "text": row["text"]})
    with (recordings / "voice.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(chosen[0]))
        writer.writeheader()
        writer.writerows(chosen)
    print(f"{len(chosen)} recordings of {_VOICE.value}, {seconds:.0f} s")
    return seconds


def _measure(
    timings: Timings, workdir: Path, demo: Path, name: str, run: Path
) -> list[dict[str, Any]]:
    """Scores of the items that are spoken in the voice, in the order of their ids."""
    samples = workdir / name.replace(" ", "_")
    scores = samples.with_suffix(".jsonl")
    if not scores.exists():
        call = ["experiments.generate", f"--workdir={run}", f"--dataset={demo / 'tokens'}"]
        call += [f"--audio_dir={demo / 'corpus'}", f"--output={samples}"]
        call += ["--modes=speaker_transfer", "--items=0", f"--unseen_items={_ITEMS.value}"]
        timings.run(f"generate, {name}", call)
        call = ["experiments.evaluate", f"--samples={samples}", f"--items_out={scores}"]
        call += [f"--similarity_items={_ITEMS.value}", "--mos_items=0"]
        timings.run(f"evaluate, {name}", [*call, f"--json_out={samples}.json"])
    lines = (samples / _CONDITION / "manifest.jsonl").read_text().splitlines()
    prompted = {entry["id"]: entry["prompt_speaker"] for entry in map(json.loads, lines)}
    found = read_scores(scores, _CONDITION)
    return [item for item in found if prompted[item["id"]] == _VOICE.value]


def _figures(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "n": len(items),
        "wer": _json(statistics.ratio(*word_errors(items))),
        "similarity": _json(statistics.mean(_similarity(items))),
    }


def _differences(items: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    if [item["id"] for item in items] != [item["id"] for item in base]:
        raise cli.UserError("the models were measured on different items; use a new --workdir")
    similarity = statistics.paired_mean_difference(_similarity(items), _similarity(base))
    errors = statistics.paired_ratio_difference(*word_errors(items), *word_errors(base))
    return {"wer": _json(errors), "similarity": _json(similarity)}


def _similarity(items: list[dict[str, Any]]) -> list[float]:
    return [item["similarity"] for item in items]


def _json(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "ci95": estimate.ci95}


if __name__ == "__main__":
    cli.run(main)
