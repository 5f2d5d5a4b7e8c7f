"""Joins short recordings of one speaker into longer utterances, and their transcripts alike.

    python -m data_pipeline.join_recordings --audio_dir=DIGITS --transcripts=FILE.csv --output=DIR

makes strings of words from a corpus of single words, such as the Free Spoken Digit Dataset. The
result is a folder source like any other: 16 kHz FLAC files and `manifest.csv` with the columns
path, speaker, text, language and split.

Splits are assigned to the single recordings, before any are joined: no recording is in two splits,
and a held-out speaker is in `unseen` only. In each split the recordings of a speaker are dealt in a
random order, again and again, so that all of them are used equally often. The plan is a function of
the recordings' names and the flags; an interrupted run resumes where it stopped.
"""

import csv
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from absl import flags

from data_pipeline.audio.io import AudioError, write_audio
from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json, write_text
from data_pipeline.runtime.progress import progress
from data_pipeline.sources import FolderSource, Utterance, assign_splits, read_audio

SAMPLE_RATE = 16_000

_VERSION = 1  # of plan and signals: raise it with any change of either
_SETTINGS_FILE = "corpus.json"


@dataclass(frozen=True)
class JoinConfig:
    """Everything that utterances depend on besides the recordings."""

    utterances_per_speaker: int = 400
    valid_per_speaker: int = 40
    unseen_per_speaker: int = 60
    min_recordings: int = 3
    max_recordings: int = 7
    min_pause: float = 0.05  # seconds between two recordings
    max_pause: float = 0.2
    valid_fraction: float = 0.1  # of each speaker's recordings
    heldout_speakers: int | tuple[str, ...] | None = None  # see `sources.assign_splits`
    seed: int = 0
    version: int = _VERSION

    def __post_init__(self) -> None:
        """Raises UserError for ranges that hold nothing."""
        if not 1 <= self.min_recordings <= self.max_recordings:
            raise UserError(
                f"--min_recordings={self.min_recordings} must be from 1 to --max_recordings="
                f"{self.max_recordings}"
            )
        if not 0 <= self.min_pause <= self.max_pause:
            raise UserError(
                f"--min_pause={self.min_pause} must be from 0 to --max_pause={self.max_pause}"
            )


@dataclass(frozen=True)
class Joined:
    """One utterance: recordings of one speaker, and the pauses in seconds between them."""

    path: str  # relative to the corpus
    recordings: tuple[Utterance, ...]
    pauses: tuple[float, ...]

    @property
    def text(self) -> str:
        """The joined transcripts."""
        return " ".join(str(recording.text) for recording in self.recordings)


def plan_utterances(recordings: Sequence[Utterance], config: JoinConfig) -> list[Joined]:
    """Every utterance of a corpus, sorted by split and speaker.

    Args:
        recordings: with transcripts, as a source lists them.
        config: how they are joined.

    Raises:
        UserError: a recording has no transcript or no speaker.
    """
    for recording in recordings:
        if not recording.text or recording.speaker == "unknown":
            lacking = "speaker" if recording.text else "transcript"
            raise UserError(
                f"recording {recording.id} has no {lacking}: only recordings with both can be "
                "joined; give a table with the columns path, speaker and text as --transcripts"
            )
    split = assign_splits(recordings, config.valid_fraction, config.heldout_speakers, config.seed)
    counts = {
        "train": config.utterances_per_speaker,
        "valid": config.valid_per_speaker,
        "unseen": config.unseen_per_speaker,
    }
    pools: dict[tuple[str, str], list[Utterance]] = {}
    for recording in sorted(split, key=lambda item: item.id):
        pools.setdefault((recording.split, recording.speaker), []).append(recording)
    return [
        joined
        for place, name in enumerate(counts)
        for number, ((of_split, speaker), pool) in enumerate(sorted(pools.items()))
        if of_split == name
        for joined in _join(pool, f"{speaker}/{name}", counts[name], config, (place, number))
    ]


def _join(
    pool: Sequence[Utterance], prefix: str, count: int, config: JoinConfig, stream: tuple[int, int]
) -> Iterator[Joined]:
    """The utterances of one speaker in one split."""
    rng = np.random.default_rng([config.seed, config.version, *stream])
    deck: list[int] = []
    for number in range(count):
        size = int(rng.integers(config.min_recordings, config.max_recordings + 1))
        while len(deck) < size:
            deck += rng.permutation(len(pool)).tolist()
        chosen, deck = deck[:size], deck[size:]
        pauses = rng.uniform(config.min_pause, config.max_pause, size - 1)
        yield Joined(
            f"audio/{prefix}_{number:05d}.flac",
            tuple(pool[index] for index in chosen),
            tuple(round(float(pause), 3) for pause in pauses),
        )


def join_recordings(source: FolderSource, output: Path, config: JoinConfig) -> dict:
    """Writes a corpus, or the part of it that is missing.

    Returns:
        Counts: utterances by split, recordings used, `failed` (id -> reason of recordings that
        cannot be used), wall seconds.

    Raises:
        UserError: no recording can be used, or `output` cannot be written or holds another corpus.
    """
    start = time.monotonic()
    listed, failures = source.list()
    failed = {failure.id: failure.reason for failure in failures}
    waves = {}
    with progress("read recordings", len(listed)) as advance:
        for recording in listed:
            try:
                waves[recording.id] = read_audio(recording, SAMPLE_RATE)
            except AudioError as error:
                failed[recording.id] = error.reason
            advance(1)
    usable = [recording for recording in listed if recording.id in waves]
    if not usable:
        raise UserError(f"{source.audio_dir}: none of the {len(listed)} recordings can be read")
    planned = plan_utterances(usable, config)
    _claim(output, {**asdict(config), "recordings": len(usable)})
    with progress("join recordings", len(planned)) as advance:
        for joined in planned:
            if not (output / joined.path).is_file():
                _write(output / joined.path, joined, waves)
            advance(1)
    write_text(output / "manifest.csv", _manifest(planned))
    splits = [joined.recordings[0].split for joined in planned]
    return {
        "output": str(output),
        "utterances": {name: splits.count(name) for name in ("train", "valid", "unseen")},
        "recordings": len(usable),
        "failed": failed,
        "seconds": round(time.monotonic() - start, 2),
    }


def _claim(output: Path, settings: dict) -> None:
    """Marks a directory as this corpus, or refuses one that holds another."""
    path, settings = output / _SETTINGS_FILE, json.loads(json.dumps(settings))
    try:
        existing = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_json(path, settings)
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): name another --output") from error
    if existing != settings:
        names = sorted(k for k in existing | settings if existing.get(k) != settings.get(k))
        raise UserError(
            f"{path}: the corpus there was made with other settings (they differ in "
            f"{', '.join(names)}): name another --output or delete the directory"
        )


def _write(path: Path, joined: Joined, waves: dict[str, np.ndarray]) -> None:
    parts: list[np.ndarray] = []
    for recording, pause in zip(joined.recordings, (*joined.pauses, 0.0), strict=True):
        parts += [waves[recording.id], np.zeros(round(pause * SAMPLE_RATE), np.float32)]
    # A killed run leaves no half-written file under a final name.
    temporary = path.with_name(f".partial-{path.name}")
    write_audio(temporary, np.concatenate(parts), SAMPLE_RATE)
    temporary.replace(path)


def _manifest(planned: Sequence[Joined]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("path", "speaker", "text", "language", "split"))
    for joined in planned:
        first = joined.recordings[0]
        writer.writerow((joined.path, first.speaker, joined.text, first.language, first.split))
    return table.getvalue()


def _define_flags() -> None:
    """Defined when run as a program only: other programs import this module."""
    default = JoinConfig()
    flags.DEFINE_string("audio_dir", None, "Directory of the recordings.", required=True)
    flags.DEFINE_string(
        "transcripts",
        None,
        "Table with the columns path, speaker and text, as of tokenize_corpus.",
        required=True,
    )
    flags.DEFINE_string(
        "output", None, "Directory of the corpus; created if missing.", required=True
    )
    flags.DEFINE_string("language", "und", "Language of rows that do not specify theirs.")
    flags.DEFINE_integer(
        "utterances_per_speaker",
        default.utterances_per_speaker,
        "Training utterances of each training speaker.",
        0,
    )
    flags.DEFINE_integer(
        "valid_per_speaker",
        default.valid_per_speaker,
        "Validation utterances of each training speaker.",
        0,
    )
    flags.DEFINE_integer(
        "unseen_per_speaker", default.unseen_per_speaker, "Utterances of each held-out speaker.", 0
    )
    flags.DEFINE_integer(
        "min_recordings", default.min_recordings, "Fewest recordings in an utterance.", 0
    )
    flags.DEFINE_integer(
        "max_recordings", default.max_recordings, "Most recordings in an utterance.", 0
    )
    flags.DEFINE_integer("seed", default.seed, "Seeds splits, order and pauses.", 0)
    flags.DEFINE_float("min_pause", default.min_pause, "Shortest pause in seconds.", 0)
    flags.DEFINE_float("max_pause", default.max_pause, "Longest pause in seconds.", 0)
    flags.DEFINE_float(
        "valid_fraction",
        default.valid_fraction,
        "Fraction of each training speaker's recordings that is kept for validation.",
        0,
        1,
    )
    flags.DEFINE_list(
        "heldout_speakers",
        None,
        "Speakers kept out of training, by name. Default: one in ten, at least one of four.",
    )


def main(argv: list[str]) -> int:
    """Runs the program; see the module."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    given = flags.FLAGS
    config = JoinConfig(
        given.utterances_per_speaker,
        given.valid_per_speaker,
        given.unseen_per_speaker,
        given.min_recordings,
        given.max_recordings,
        given.min_pause,
        given.max_pause,
        given.valid_fraction,
        tuple(given.heldout_speakers) if given.heldout_speakers else None,
        given.seed,
    )
    source = FolderSource(
        given.audio_dir, given.transcripts, language=given.language, exclude=given.output
    )
    result = join_recordings(source, Path(given.output), config)
    counts, failed = result["utterances"], result["failed"]
    for name, reason in list(failed.items())[:5]:
        print(f"not used: {name}: {reason}")
    print(
        f"{sum(counts.values())} utterances ({counts['train']} train, {counts['valid']} valid, "
        f"{counts['unseen']} unseen) of {result['recordings']} recordings in {result['output']}; "
        f"{len(failed)} recordings cannot be used, {result['seconds']} s"
    )
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    return exit_codes.PARTIAL if failed else exit_codes.OK


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
