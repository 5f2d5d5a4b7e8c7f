"""Asks for samples again by a cascade: the text that a recogniser hears, read in the same voice.

    python -m experiments.studies.cascade --samples=SAMPLES/speaker_transfer --items=ITEMS.jsonl \
        --output=DIR [--text=heard]

SAMPLES is what `experiments.generate` made of a dataset, ITEMS what `experiments.evaluate
--items_out` wrote of it, with what the recogniser of its first recipe heard in the condition
`recording`. DIR/requests.jsonl asks `experiments.generate --manifest` to read these texts (or, with
`--text=true`, the transcripts) in the voices of the samples' prompts, into DIR/made; DIR/samples is
then a directory of samples for `experiments.evaluate`.
"""

import dataclasses
import json
from pathlib import Path

from absl import flags

from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_text
from experiments.studies.again import moved, write_condition
from gpst_jax.evaluation.systems import read_items
from gpst_jax.samples.manifest import MANIFEST, read_manifest

_SAMPLES = flags.DEFINE_string("samples", None, "Condition of samples.", required=True)
_ITEMS = flags.DEFINE_string("items", None, "Scores of single items.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Directory for all outputs.", required=True)
_TEXT = flags.DEFINE_enum("text", "heard", ["heard", "true"], "What is read.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the sampling.", 0)
_CONDITION, _MODE = "recording", "tts"


def main(argv: list[str]) -> int:
    """Writes requests and the manifest of the samples that are to be made."""
    del argv
    output = Path(_OUTPUT.value).resolve()
    samples = read_manifest(Path(_SAMPLES.value).resolve() / MANIFEST)
    heard = {item["id"]: item.get("transcript") for item in read_items(_ITEMS.value)[_CONDITION]}
    lines, kept = [], []
    for number, sample in enumerate(samples):
        text = heard.get(sample.id) if _TEXT.value == "heard" else sample.text
        if sample.prompt_audio is None:
            raise UserError(f"--samples={_SAMPLES.value}: {sample.id} has no prompt")
        # What was not heard is not said: a sample without audio is scored as a failure.
        kept.append(dataclasses.replace(sample, source_audio=None))
        if text and text.strip():
            line = {"id": sample.id, "mode": _MODE, "text": text, "seed": _SEED.value + number}
            lines.append(json.dumps(line | {"prompt": str(sample.prompt_audio)}) + "\n")
    write_text(output / "requests.jsonl", "".join(lines))
    write_condition(output / "samples" / "speaker_transfer", moved(kept, output / "made"))
    print(f"{len(lines)} of {len(samples)} texts in {output / 'requests.jsonl'}")
    return 0


if __name__ == "__main__":
    cli.run(main)
