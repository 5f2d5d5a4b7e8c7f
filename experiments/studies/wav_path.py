"""Is speech made from files as good as that made from a dataset? In other weights? For how long?

    python -m experiments.studies.wav_path --demo=runs/demo --workdir=DIR \
        [--mode=semantic_to_acoustic] [--weights=float32,int8] [--seconds=20]

Takes the samples that `make demo` made of held-out recordings from their tokens, and makes them
again from the recordings' files by `experiments.generate --manifest`: the same items, the same
prompts, once for each of --weights. Word errors and similarity of each, and the paired differences
to the samples of the demo, are written with 95 % intervals to `study.json` in --workdir.

With --seconds held-out recordings of a voice are joined to sources at least that long, and made
window by window (the demo is trained on 5 s); they are compared with the joined recordings, and
the last 5 s alone tell whether the voice stays. Finished parts are kept: an interrupted study
resumes when started again.
"""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from absl import flags

from data_pipeline.audio.io import write_audio
from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json, write_text
from experiments.demo_steps import Timings, read_scores, word_errors
from experiments.studies.again import moved, write_condition
from gpst_jax.evaluation.metrics import statistics
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE
from gpst_jax.models import decoding
from gpst_jax.samples.manifest import MANIFEST, Sample, read_manifest
from gpst_jax.synthesis.requests import MODES

_DEMO = flags.DEFINE_string("demo", "runs/demo", "Directory of a finished `make demo`.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for all outputs.", required=True)
_MODE = flags.DEFINE_enum(
    "mode",
    "semantic_to_acoustic",
    ["semantic_to_acoustic", "speaker_transfer", "tts"],
    "What is made; tts takes the texts of the samples, the others their recordings.",
)
_WEIGHTS = flags.DEFINE_list(
    "weights", ["float32"], f"Of the models, one after another: {', '.join(decoding.WEIGHTS)}."
)
_ITEMS = flags.DEFINE_integer("items", 100, "Samples of the demo that are made again.", 2)
_SECONDS = flags.DEFINE_float("seconds", 0.0, "Joins recordings to at least so long ones.", 0.0)
_SEED = flags.DEFINE_integer("seed", 0, "Of the first item; the others have the next ones.", 0)
_WER = flags.DEFINE_string("wer", DIGITS_RECIPE, "Recipe of the word errors.")
_PAUSE_SECONDS, _LAST_SECONDS = 0.3, 5.0
_LAST = "_last"


def main(argv: list[str]) -> int:
    """Generates, measures, compares and writes the results."""
    del argv
    for name in _WEIGHTS.value:
        if name not in decoding.WEIGHTS:
            raise UserError(f"--weights={name}: choose from {', '.join(decoding.WEIGHTS)}")
    workdir, mode = Path(_WORKDIR.value), _MODE.value
    timings = Timings(workdir / "timings.json")
    samples, scores = workdir / "samples", workdir / "scores.jsonl"
    if _SECONDS.value:
        base, chosen = "recording", _join(samples / "recording")
    else:
        base, chosen = mode, _of_demo(mode)[: _ITEMS.value]
        ids = {sample.id for sample in chosen}
        for condition in ("recording", "codec", mode):
            kept = [sample for sample in _of_demo(condition) if sample.id in ids]
            write_condition(samples / condition, kept)
    requests = workdir / "requests.jsonl"
    write_text(requests, "".join(_request(number, one) for number, one in enumerate(chosen)))
    made = [f"{mode}_files_{weights}" for weights in _WEIGHTS.value]
    for condition, weights in zip(made, _WEIGHTS.value, strict=True):
        _generate(timings, requests, samples / condition, weights)
        write_condition(samples / condition, moved(chosen, samples / condition))
        if _SECONDS.value:
            _cut_last(samples / condition)

    call = ["experiments.evaluate", f"--samples={samples}", f"--items_out={scores}"]
    call += [f"--wer={_WER.value}", f"--similarity_items={len(chosen)}", "--mos_items=0"]
    call.append(f"--json_out={workdir / 'evaluation.json'}")
    timings.run("evaluate", call, accept=(exit_codes.OK, exit_codes.PARTIAL))
    results = _results(scores, [path.name for path in sorted(samples.iterdir())], base, made)
    results["timings_s"] = timings.rounded()
    write_json(workdir / "study.json", results)
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, results)
    print(json.dumps(results, indent=2))
    return 0


def _of_demo(condition: str) -> list[Sample]:
    """The samples of a condition of the demo; paths are absolute."""
    return read_manifest((Path(_DEMO.value) / "samples" / condition / MANIFEST).resolve())


def _request(number: int, sample: Sample) -> str:
    """The line of a manifest of `experiments.generate` that makes a sample."""
    needs = MODES["gpst"][_MODE.value].needs
    line: dict[str, Any] = {"id": sample.id, "seed": _SEED.value + number}
    if "source" in needs:
        line["source"] = str(sample.source_audio)
    if "text" in needs:
        line["text"] = sample.text
    if sample.prompt_audio is not None and _MODE.value != "semantic_to_acoustic":
        line["prompt"] = str(sample.prompt_audio)
    return json.dumps(line) + "\n"


def _generate(timings: Timings, requests: Path, output: Path, weights: str) -> None:
    """Makes what is not there yet."""
    demo = Path(_DEMO.value)
    call = ["experiments.generate", f"--workdir={demo / 'train'}", f"--mode={_MODE.value}"]
    call += [f"--lm_workdir={demo / 'train_lm'}"] if _MODE.value == "tts" else []
    call += [f"--manifest={requests}", f"--output={output}", f"--weights={weights}"]
    timings.run(f"generate, {weights}", call, accept=(exit_codes.OK, exit_codes.PARTIAL))


def _join(directory: Path) -> list[Sample]:
    """Held-out digit strings of each voice, joined to sources that are at least --seconds long."""
    if _MODE.value == "tts":
        raise UserError("--mode=tts has no recordings to join: leave out --seconds")
    corpus = Path(_DEMO.value) / "corpus"
    with (corpus / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "valid"]
    joined: list[Sample] = []
    voices = {sample.speaker: sample for sample in _of_demo(_MODE.value)}
    for speaker, sample in voices.items():
        group: list[dict[str, str]] = []
        seconds = 0.0
        for row in rows:
            if row["speaker"] != speaker or row["text_kind"] != "digits":
                continue
            group.append(row)
            seconds += soundfile.info(corpus / row["path"]).duration
            if seconds >= _SECONDS.value:
                joined.append(_joined(sample, group, f"long-{len(joined):04d}", directory))
                group, seconds = [], 0.0
    if len(joined) < 2:
        raise UserError(
            f"--seconds={_SECONDS.value:g}: the recordings of {corpus} give {len(joined)} sources "
            "so long: give less"
        )
    joined = joined[: _ITEMS.value]
    write_condition(directory, joined)
    return joined


def _joined(sample: Sample, group: Sequence[dict[str, str]], name: str, directory: Path) -> Sample:
    """A recording of all rows with their texts; voice and prompt are those of the sample."""
    parts, rate = [], 0
    for row in group:
        wav, rate = soundfile.read(Path(_DEMO.value) / "corpus" / row["path"], dtype="float32")
        parts += [wav, np.zeros(round(_PAUSE_SECONDS * rate), np.float32)]
    path = (directory / f"{name}.wav").resolve()
    write_audio(path, np.concatenate(parts[:-1]), rate)
    text = " ".join(row["text"] for row in group)
    return dataclasses.replace(
        sample, id=name, text=text, text_kind="digits", audio=path, source_audio=path
    )


def _cut_last(directory: Path) -> None:
    """A condition of the last seconds of each sample, whose words nobody knows."""
    last = directory.with_name(f"{directory.name}{_LAST}")
    cut = []
    for sample in read_manifest((directory / MANIFEST).resolve()):
        path = last.resolve() / f"{sample.id}.wav"
        wav, rate = soundfile.read(sample.audio, dtype="float32")
        write_audio(path, wav[-round(_LAST_SECONDS * rate) :], rate)
        cut.append(dataclasses.replace(sample, audio=path, text=None, text_kind="free"))
    write_condition(last, cut)


def _results(
    scores: Path, conditions: Sequence[str], base: str, made: Sequence[str]
) -> dict[str, Any]:
    """Figures of each condition, and the differences of those that were made to the base."""
    items = {name: read_scores(scores, name) for name in conditions if not name.startswith(".")}
    results: dict[str, Any] = {name: _figures(of_name) for name, of_name in items.items()}
    for name in made:
        results[f"{name} - {base}"] = _differences(items[name], items[base])
    for name in made[1:]:
        results[f"{name} - {made[0]}"] = _differences(items[name], items[made[0]])
    return results


def _figures(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    counted = [item for item in items if item["errors"]]
    similar = [item["similarity"] for item in items if item["similarity"] is not None]
    return {
        "n": len(items),
        "wer": _row(statistics.ratio(*word_errors(counted)), len(counted)) if counted else None,
        "similarity": _row(statistics.mean(similar), len(similar)) if similar else None,
    }


def _differences(items: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Word errors and similarity of items minus those of the base, over the ids that both have."""
    of_base = {item["id"]: item for item in base}
    pairs = [(item, of_base[item["id"]]) for item in items if item["id"] in of_base]
    counted = [pair for pair in pairs if all(item["errors"] for item in pair)]
    similar = [pair for pair in pairs if all(item["similarity"] is not None for item in pair)]
    found: dict[str, Any] = {"wer": None, "similarity": None}
    if counted:
        columns = [column for side in zip(*counted, strict=True) for column in word_errors([*side])]
        found["wer"] = _row(statistics.paired_ratio_difference(*columns), len(counted))
    if similar:
        sides = [[item["similarity"] for item in side] for side in zip(*similar, strict=True)]
        found["similarity"] = _row(statistics.paired_mean_difference(*sides), len(similar))
    return found


def _row(estimate: statistics.Estimate, n: int) -> dict[str, Any]:
    return {"value": estimate.value, "ci95": estimate.ci95, "n": n}


if __name__ == "__main__":
    cli.run(main)
