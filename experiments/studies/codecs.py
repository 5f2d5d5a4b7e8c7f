"""How good is an offline codec, by its number of codebooks? On recordings of speakers it never saw.

    python -m experiments.studies.codecs --audio_dir=RECORDINGS --workdir=DIR \
        [--transcripts=FILE.csv] [--codecs=world_rvq:8x1024,world_rvq:4x1024@100,mel_rvq:8x1024] \
        [--depths=2,4,8] [--coders=opus:6,codec2:3200] [--shared=DIR]

Fits each codec on the recordings of all speakers but the held-out ones, resynthesises one recording
of each of these with the first codebooks alone, and measures what is left: words, as `wer/*-self`
recipes hear them (against the recogniser's own transcript of the recording, so that none is
needed), speaker similarity to the recording, and opinion scores. `--coders` are coders of
telephony (`speech_coders.py`) on the same recordings. Intervals are over speakers. The table is
`study.json` in --workdir, the page to listen to `report.html`. Finished parts are kept: an
interrupted study resumes when started again. The cells of `study_files/codecs.py` are calls of this
program with one codec each.
"""

import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from data_pipeline.audio.io import write_audio
from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.progress import progress
from data_pipeline.sources import FolderSource, Utterance, assign_splits, read_audio
from data_pipeline.tokenizers import AcousticCodec, load_codec
from data_pipeline.tokenizers.codecs import FITTED
from experiments.demo_steps import Timings, read_json
from experiments.studies.speech_coders import Coded, Coder, coder
from gpst_jax.samples.manifest import MANIFEST, Sample, write_manifest
from gpst_jax.studies.figures import FOLDER, ITEMS, RESULTS

_AUDIO_DIR = flags.DEFINE_string("audio_dir", None, "Directory of recordings.", required=True)
_TRANSCRIPTS = flags.DEFINE_string("transcripts", None, "Table with a column speaker.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for all outputs.", required=True)
_CODECS = flags.DEFINE_list(
    "codecs",
    ["world_rvq:8x1024", "mel_rvq:8x1024"],
    "KIND:CODEBOOKSxCODES of each codec, or KIND:CODEBOOKSxCODES@FRAMES of as many frames per "
    "second; 50 without.",
)
_DEPTHS = flags.DEFINE_list("depths", ["2", "4", "8"], "How many of the codebooks are used.")
_SHARED = flags.DEFINE_string(
    "shared", None, "Keeps fitted codecs and measured values for other calls; default: --workdir."
)
_CODERS = flags.DEFINE_list("coders", [], "Coders to compare with: opus:KBPS, codec2:MODE.")
_SPEAKERS = flags.DEFINE_integer("speakers", 40, "Held-out speakers, a recording of each.", 2)
_SECONDS = flags.DEFINE_float("max_seconds", 3600.0, "Seconds of audio to fit on.", 1.0)
_WER = flags.DEFINE_string(
    "wer", "wer/whisper-base-english-self", "Recipe of the words that are understood."
)
_RATE = 16_000  # Hz, of recordings as they are judged
_BITS = "bits.json"  # of a condition, as sent
_SIMILARITY, _OPINION = "sim-o/resemblyzer-smoke", ("dnsmos-p835/speechmos", "mos/distillmos")


def main(argv: list[str]) -> int:
    """Fits, resynthesises, measures, prints the table and writes it."""
    del argv
    codecs = dict(_parsed(name) for name in _CODECS.value)
    coders = {name: coder(name) for name in _CODERS.value}
    depths = _depths()
    workdir = Path(_WORKDIR.value)
    shared = Path(_SHARED.value or workdir)
    samples, results = workdir / "samples", workdir / FOLDER / RESULTS
    timings = Timings(workdir / "timings.json")
    heldout = _heldout()
    for name, (kind, codebooks, codes, rate) in codecs.items():
        directory = shared / "codecs" / name
        if not directory.exists():
            call = ["data_pipeline.fit_tokenizers", f"--audio_dir={_AUDIO_DIR.value}"]
            call += [f"--transcripts={_TRANSCRIPTS.value}"] if _TRANSCRIPTS.value else []
            call += [f"--output={directory}", f"--codec_kind={kind}", "--valid_fraction=0"]
            call += [f"--num_codebooks={codebooks}", f"--codebook_size={codes}"]
            call += [f"--codec_rate={rate}"] if rate else []
            call += [f"--heldout_speakers={_SPEAKERS.value}", f"--max_seconds={_SECONDS.value}"]
            timings.run(f"fit {name}", call)

    _write_recordings(samples / "recording", heldout)
    bits: dict[str, float] = {}  # per second, by condition
    for name, (_, codebooks, codes, _) in codecs.items():
        codec = load_codec(shared / "codecs" / name / "codec")
        for depth in (depth for depth in depths if depth <= codebooks):
            condition = f"{name}_first_{depth}"
            bits[condition] = codec.frame_rate * depth * math.log2(codes)
            _resynthesise(samples / condition, heldout, functools.partial(_through, codec, depth))
    for name, through in coders.items():
        condition = name.replace(":", "_").replace(".", "_")
        directory = samples / condition
        _resynthesise(directory, heldout, through)
        bits[condition] = read_json(directory / _BITS)["bits_per_second"]

    call = ["experiments.evaluate", f"--samples={samples}", f"--json_out={results}"]
    call += [f"--items_out={results.with_name(ITEMS)}", f"--cache_dir={shared / 'measured'}"]
    call += [f"--wer={_WER.value}", f"--mos_items={_SPEAKERS.value}"]
    call += [f"--report={workdir / 'report.html'}", "--title=Codecs by number of codebooks"]
    timings.run("evaluate", call, accept=(exit_codes.OK, exit_codes.PARTIAL))
    table = _table(read_json(results), bits)
    study = {"speakers": len(heldout), "table": table, "timings_s": timings.rounded()}
    study["bits_per_second"] = bits
    write_json(workdir / "study.json", study)
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, study)
    _print(table)
    return 0


def _parsed(text: str) -> tuple[str, tuple[str, int, int, str]]:
    """Name of a codec in paths; and its kind, codebooks, codes, and frame rate or nothing."""
    match = re.fullmatch(r"(\w+):(\d+)x(\d+)(?:@(\d+(?:\.\d+)?))?", text)
    if match is None or match[1] not in FITTED:
        raise UserError(
            f"--codecs: {text!r} is not KIND:CODEBOOKSxCODES or KIND:CODEBOOKSxCODES@FRAMES with "
            f"one of the kinds {', '.join(FITTED)}"
        )
    kind, codebooks, codes, rate = match.groups(default="")
    name = f"{kind}_{codebooks}x{codes}" + (f"_{rate}hz" if rate else "")
    return name, (kind, int(codebooks), int(codes), rate)


def _depths() -> list[int]:
    if not all(depth.isdigit() and int(depth) for depth in _DEPTHS.value):
        raise UserError(f"--depths={','.join(_DEPTHS.value)}: give positive numbers")
    return [int(depth) for depth in _DEPTHS.value]


def _heldout() -> list[Utterance]:
    """The first recording of each held-out speaker, as `fit_tokenizers` holds them out."""
    source = FolderSource(_AUDIO_DIR.value, _TRANSCRIPTS.value, exclude=_WORKDIR.value)
    split = assign_splits(source.list()[0], 0.0, _SPEAKERS.value, 0)
    first: dict[str, Utterance] = {}
    for utterance in sorted(split, key=lambda item: item.id):
        if utterance.split == "unseen":
            first.setdefault(utterance.speaker, utterance)
    return list(first.values())


def _write_recordings(directory: Path, heldout: Sequence[Utterance]) -> None:
    if (directory / MANIFEST).exists():
        return
    for utterance in heldout:
        wav = read_audio(utterance, _RATE)
        write_audio(directory / f"{_name(utterance)}.wav", wav, _RATE)
    write_manifest(directory, [_sample(utterance) for utterance in heldout])


def _through(codec: AcousticCodec, depth: int, wav: np.ndarray, rate: int) -> Coded:
    """A recording through the first codebooks of a codec."""
    codes = codec.encode(wav, rate)[:depth]
    bits = round(codes.size * math.log2(codec.codebook_size))
    return Coded(codec.decode(np.asarray(codes, np.int64)), codec.sample_rate, bits)


def _resynthesise(directory: Path, heldout: Sequence[Utterance], through: Coder) -> None:
    if (directory / MANIFEST).exists():
        return
    bits, seconds = 0, 0.0
    with progress(directory.name, len(heldout)) as advance:
        for utterance in heldout:
            wav = read_audio(utterance, _RATE)
            made = through(wav, _RATE)
            write_audio(directory / f"{_name(utterance)}.wav", made.wav, made.sample_rate)
            bits, seconds = bits + made.bits, seconds + len(wav) / _RATE
            advance(1)
    write_json(directory / _BITS, {"bits_per_second": bits / seconds})
    write_manifest(directory, [_sample(utterance) for utterance in heldout])


def _name(utterance: Utterance) -> str:
    return utterance.id.replace("/", "_")


def _sample(utterance: Utterance) -> Sample:
    recording = Path("../recording", f"{_name(utterance)}.wav")
    return Sample(
        id=_name(utterance),
        audio=Path(recording.name),
        text=utterance.text,
        language=None if utterance.language == "und" else utterance.language,
        speaker=utterance.speaker,
        source_audio=recording,
        prompt_speaker=utterance.speaker,
        prompt_audio=recording,  # similarity is to the recording itself
    )


def _table(results: dict[str, Any], bits: dict[str, float]) -> list[dict[str, Any]]:
    """One row per condition: bits per second, and every measure with its interval."""
    rows = results["ceilings"] | results["modes"]
    keep = ("value", "ci95", "n")
    return [
        {"condition": name, "bits_per_second": bits.get(name)}
        | {
            recipe: {key: rows[name][recipe].get(key) for key in keep}
            for recipe in (_WER.value, _SIMILARITY, *_OPINION)
            if recipe in rows[name]
        }
        for name in ("recording", *bits)
    ]


def _print(table: Sequence[dict[str, Any]]) -> None:
    for row in table:
        rate = row["bits_per_second"]
        print(f"{row['condition']:28} {f'{rate / 1000:.2f} kbit/s' if rate else '':12}", end="")
        for recipe, cell in row.items():
            if isinstance(cell, dict) and cell["value"] is not None:
                ends = ", ".join(f"{end:.3f}" for end in cell["ci95"] or ())
                print(f"  {recipe.split('/')[0]} {cell['value']:.3f} [{ends}]", end="")
        print()


if __name__ == "__main__":
    cli.run(main)
