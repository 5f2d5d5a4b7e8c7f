"""Does fine-tuning on a speaker raise similarity beyond a prompt of three seconds?

    python -m experiments.studies.voice --demo=runs/demo --workdir=DIR [--voice=f3] [--seconds=180]

Synthesises recordings of a voice that `make demo` holds out, fine-tunes the demo's model on some of
them, and runs speaker transfer with both models on the others, whose texts are not in the
fine-tuning data, each with a prompt of three seconds from another recording of the voice.
Similarity to the prompt and word error rate of both models, and the paired differences, are written
with 95 % intervals to `study.json` in --workdir. Finished parts are kept: an interrupted study
resumes when started again.
"""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import soundfile
from absl import flags

from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from experiments.demo_steps import Timings, read_scores, word_errors
from gpst_jax.evaluation.metrics import statistics
from gpst_jax.evaluation.metrics.statistics import Estimate
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE

_DEMO = flags.DEFINE_string("demo", "runs/demo", "Directory of a finished `make demo`.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for all outputs.", required=True)
_VOICE = flags.DEFINE_string("voice", "f3", "eSpeak voice, of the demo's split `unseen`.")
_SECONDS = flags.DEFINE_float("seconds", 180.0, "Seconds of recordings to fine-tune on.", 1.0)
_METHOD = flags.DEFINE_enum("method", "full", ("full", "lora"), "Method of fine-tuning.")
_STEPS = flags.DEFINE_integer("steps", 300, "Steps of fine-tuning.", 1)
_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Learning rate of fine-tuning.", 0.0)
_RECORDINGS = flags.DEFINE_integer("recordings", 150, "Recordings to synthesise.", 4)
_CONDITION = "speaker_transfer_unseen"


def main(argv: list[str]) -> int:
    """Synthesises, fine-tunes, generates, measures and writes the results."""
    del argv
    workdir, demo = Path(_WORKDIR.value), Path(_DEMO.value)
    timings = Timings(workdir / "timings.json")
    recordings, tuned = workdir / "recordings", workdir / "tuned"
    call = ["data_pipeline.synthesize_corpus", f"--output={recordings}", "--seed=1000"]
    call += [
        "--utterances_per_voice=1",
        "--valid_per_voice=1",
        f"--unseen_per_voice={_RECORDINGS.value}",
    ]
    timings.run("recordings", call)
    seconds = _divide(recordings)
    call = ["data_pipeline.tokenize_corpus", f"--source=manifest:{recordings / 'heldout.csv'}"]
    call += [f"--{kind}={demo / 'tokens/tokenizers' / kind}" for kind in ("semantic", "codec")]
    timings.run("tokenise", [*call, f"--output={workdir / 'heldout'}"])

    call = ["experiments.finetune", f"--checkpoint={demo / 'train'}", f"--workdir={tuned}"]
    call += [f"--source=manifest:{recordings / 'voice.csv'}", f"--method={_METHOD.value}"]
    call += [f"--steps={_STEPS.value}", f"--learning_rate={_RATE.value}"]
    timings.run("fine-tune", call)

    models = {"prompt alone": demo / "train"}
    models["fine-tuned"] = tuned / ("merged" if _METHOD.value == "lora" else "train")
    scores = {name: _measure(timings, workdir, name, run) for name, run in models.items()}
    results: dict[str, Any] = {name: _figures(items) for name, items in scores.items()}
    results["difference"] = _differences(scores["fine-tuned"], scores["prompt alone"])
    results |= {"voice": _VOICE.value, "seconds": round(seconds, 1), "steps": _STEPS.value}
    write_json(workdir / "study.json", results | {"timings_s": timings.rounded()})
    print(json.dumps(results, indent=2))
    return 0


def _divide(recordings: Path) -> float:
    """Writes voice.csv (fine-tuning) and heldout.csv (other texts); returns the former's seconds.

    Generation prompts with another speaker than the item's, so every second held-out recording is
    listed under a second speaker name for the same voice.
    """
    with (recordings / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["speaker"] == _VOICE.value]
    if not rows:
        raise UserError(f"--voice={_VOICE.value}: the corpus has no such voice")
    tuning: list[dict[str, str]] = []
    seconds = 0.0
    while seconds < _SECONDS.value and len(tuning) < len(rows):
        row = rows[len(tuning)]
        seconds += soundfile.info(recordings / row["path"]).duration
        tuning.append({field: row[field] for field in ("path", "speaker", "text")})
    known = {row["text"] for row in tuning}
    names = itertools.cycle((_VOICE.value, f"{_VOICE.value} again"))
    rest = [row for row in rows[len(tuning) :] if row["text"] not in known]
    heldout = [
        {"path": row["path"], "speaker": name, "text": row["text"], "split": "unseen"}
        for row, name in zip(rest, names, strict=False)
    ]
    if len(heldout) < 2:
        raise UserError(f"--seconds={_SECONDS.value}: no recordings are left to hold out; use less")
    for file_name, chosen in (("voice.csv", tuning), ("heldout.csv", heldout)):
        with (recordings / file_name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(chosen[0]))
            writer.writeheader()
            writer.writerows(chosen)
    print(f"{_VOICE.value}: {len(tuning)} recordings, {seconds:.0f} s; {len(heldout)} held out")
    return seconds


def _measure(timings: Timings, workdir: Path, name: str, run: Path) -> list[dict[str, Any]]:
    """Scores of the items, sorted by id."""
    samples = workdir / name.replace(" ", "_")
    scores = samples.with_suffix(".jsonl")
    if not scores.exists():
        audio = workdir / "recordings" / "audio" / _VOICE.value
        call = ["experiments.generate", f"--workdir={run}", f"--dataset={workdir / 'heldout'}"]
        call += [f"--audio_dir={audio}", f"--output={samples}", "--mode=speaker_transfer"]
        call += ["--items=0", f"--unseen_items={_RECORDINGS.value}"]
        timings.run(f"generate, {name}", call)
        call = ["experiments.evaluate", f"--samples={samples}", f"--items_out={scores}"]
        call += [f"--similarity_items={_RECORDINGS.value}", "--mos_items=0"]
        call.append(f"--wer={DIGITS_RECIPE}")
        timings.run(f"evaluate, {name}", [*call, f"--json_out={samples}.json"])
    # Sentences have no word errors: the offline recogniser knows digit strings only.
    return [item for item in read_scores(scores, _CONDITION) if item["errors"]]


def _figures(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "n": len(items),
        "wer": _json(statistics.ratio(*word_errors(items))),
        "similarity": _json(statistics.mean(_similarity(items))),
    }


def _differences(items: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    if [item["id"] for item in items] != [item["id"] for item in base]:
        raise UserError("the models were measured on different items; use a new --workdir")
    similarity = statistics.paired_mean_difference(_similarity(items), _similarity(base))
    errors = statistics.paired_ratio_difference(*word_errors(items), *word_errors(base))
    return {"wer": _json(errors), "similarity": _json(similarity)}


def _similarity(items: list[dict[str, Any]]) -> list[float]:
    return [item["similarity"] for item in items]


def _json(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "ci95": estimate.ci95}


if __name__ == "__main__":
    cli.run(main)
