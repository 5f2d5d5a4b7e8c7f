"""Divides recordings of one voice: some to fine-tune on, others with other texts held out.

    python -m experiments.studies.voice --recordings=CORPUS --voice=f3 --seconds=180

writes CORPUS/voice.csv and CORPUS/heldout.csv for `data_pipeline.tokenize_corpus --source`, from
what `data_pipeline.synthesize_corpus` made. It is a step of the study in
experiments/study_files/voice.py.
"""

import csv
import itertools
from pathlib import Path

import soundfile
from absl import flags

from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError

_RECORDINGS = flags.DEFINE_string("recordings", None, "Synthesised corpus.", required=True)
_VOICE = flags.DEFINE_string("voice", "f3", "eSpeak voice, of the corpus's split `unseen`.")
_SECONDS = flags.DEFINE_float("seconds", 180.0, "Seconds of recordings to fine-tune on.", 1.0)


def main(argv: list[str]) -> int:
    """Writes voice.csv (fine-tuning) and heldout.csv (other texts).

    Generation prompts with another speaker than the item's, so every second held-out recording is
    listed under a second speaker name for the same voice.
    """
    del argv
    recordings = Path(_RECORDINGS.value)
    with (recordings / "manifest.csv").open(newline="", encoding="utf-8") as file:
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
        with (recordings / file_name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(chosen[0]))
            writer.writeheader()
            writer.writerows(chosen)
    print(f"{_VOICE.value}: {len(tuning)} recordings, {seconds:.0f} s; {len(heldout)} held out")
    return 0


if __name__ == "__main__":
    cli.run(main)
