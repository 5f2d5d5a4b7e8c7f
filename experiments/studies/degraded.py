"""Degrades the recordings that samples were made from, and asks for the samples again.

    python -m experiments.studies.degraded --samples=SAMPLES/speaker_transfer --output=DIR \
        --what=prompt --how=snr10

SAMPLES is what `experiments.generate` made of a dataset. The prompts (or the sources, or both) of
each sample are written to DIR/recordings with white noise at a signal-to-noise ratio in dB, through
8 kHz or through mp3; DIR/requests.jsonl asks `experiments.generate --manifest` for the same samples
of these recordings, to be written to DIR/made. DIR/samples then is a directory of these samples for
`experiments.evaluate`, whose references are the recordings as they were.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from absl import flags

from data_pipeline.audio.io import write_audio
from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_text
from experiments.studies.again import moved, write_condition
from experiments.studies.degradations import HOW
from gpst_jax.samples.manifest import MANIFEST, read_manifest
from gpst_jax.synthesis.requests import MODES

WHAT = {"source": ("source",), "prompt": ("prompt",), "both": ("source", "prompt")}

_SAMPLES = flags.DEFINE_string("samples", None, "Condition of samples.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Directory for all outputs.", required=True)
_WHAT = flags.DEFINE_enum("what", "prompt", list(WHAT), "Which recordings are degraded.")
_HOW = flags.DEFINE_enum("how", "clean", list(HOW), "In which way.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise and of the sampling.", 0)


def main(argv: list[str]) -> int:
    """Writes recordings, requests and the manifest of the samples that are to be made."""
    del argv
    condition, output = Path(_SAMPLES.value).resolve(), Path(_OUTPUT.value).resolve()
    mode = condition.name
    if mode not in MODES["gpst"]:
        raise UserError(f"--samples={_SAMPLES.value}: {mode!r} is no mode of GPST")
    samples = read_manifest(condition / MANIFEST)
    lines = []
    for number, sample in enumerate(samples):
        line: dict[str, Any] = {"id": sample.id, "mode": mode, "seed": _SEED.value + number}
        needs = (*MODES["gpst"][mode].needs, *MODES["gpst"][mode].takes)
        for role, path in (("source", sample.source_audio), ("prompt", sample.prompt_audio)):
            if role in needs and path is not None:
                line[role] = str(_degraded(sample.id, role, path, output))
        lines.append(json.dumps(line) + "\n")
    write_text(output / "requests.jsonl", "".join(lines))
    write_condition(output / "samples" / mode, moved(samples, output / "made"))
    print(f"{len(samples)} requests in {output / 'requests.jsonl'}")
    return 0


def _degraded(name: str, role: str, path: Path, output: Path) -> Path:
    """A recording as it is to be heard, in a file."""
    if role not in WHAT[_WHAT.value] or _HOW.value == "clean":
        return path
    wav, rate = soundfile.read(path, dtype="float32")
    seed = zlib.crc32(f"{_SEED.value}/{name}/{role}".encode())
    degraded = HOW[_HOW.value](wav, rate, seed).astype(np.float32)
    written = output / "recordings" / role / f"{name}.wav"
    write_audio(written, degraded, rate)
    return written


if __name__ == "__main__":
    cli.run(main)
