"""Tar shards in the WebDataset layout: a sample is `KEY.flac`, `KEY.txt` and `KEY.json`.

Listing reads the headers once, with Python's `tarfile`, and records the offset of each recording,
by which its audio is read later. Streaming libraries would read complete shards sequentially, and
offer nothing else that is needed here.
"""

import glob
import json
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.audio.io import AUDIO_SUFFIXES
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import UNKNOWN_SPEAKER, Failure, Utterance, checked, encode_member

_TEXT_SUFFIXES = (".txt", ".json")
_MOST_TEXT = 1 << 20  # bytes of a transcript or description


@dataclass(frozen=True)
class TarSource:
    """Tar shards.

    Attributes:
        pattern: a tar file, a directory of them, or a glob pattern.
        language: of samples that do not specify theirs.
    """

    pattern: str | os.PathLike[str]
    language: str = "und"

    def list(self) -> tuple[list[Utterance], list[Failure]]:
        """See `base.Source`; speaker, text and language come from `.json` and `.txt` members."""
        given = os.fspath(self.pattern)
        if os.path.isdir(given):
            given = os.path.join(glob.escape(given), "*.tar")
        shards = sorted(Path(name).absolute() for name in glob.glob(given))
        if not shards:
            raise UserError(f"no tar files at {given}")
        utterances: list[Utterance] = []
        failures: list[Failure] = []
        for shard in shards:
            samples: dict[str, _Sample] = {}
            try:
                # "r:" rules out compression: offsets must be those in the file.
                with tarfile.open(shard, "r:") as file:
                    for entry in file:
                        if entry.isfile():
                            _collect(samples, file, entry)
                        elif not entry.isdir():
                            failures.append(_failure(shard, entry.name, "not a regular file"))
            except (tarfile.TarError, OSError, EOFError) as error:
                failures.append(
                    _failure(
                        shard,
                        "",
                        f"not an uncompressed tar file, or truncated ({error}): "
                        f"{len(samples)} samples were listed",
                    )
                )
            for key, sample in samples.items():
                _add(shard, key, sample, self.language, utterances, failures)
        return checked(utterances, failures)


@dataclass
class _Sample:
    audio: list[tuple[str, int, int]] = field(default_factory=list)  # name, offset, size
    description: dict = field(default_factory=dict)
    text: str = ""
    others: list[str] = field(default_factory=list)
    problem: str = ""

    def find(self, *names: str) -> str:
        for name in names:
            value = self.description.get(name)
            if isinstance(value, str | int) and not isinstance(value, bool):
                return str(value).strip()
        return ""


def _collect(samples: dict[str, _Sample], file: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
    """Adds a member to its sample, whose key ends at the first dot of the member's file name."""
    folder, _, name = entry.name.rpartition("/")
    stem, dot, rest = name.partition(".")
    sample = samples.setdefault(f"{folder}/{stem}".strip("/"), _Sample())
    suffix = os.path.splitext(dot + rest.lower())[1] or dot + rest.lower()
    if suffix in AUDIO_SUFFIXES:
        sample.audio.append((entry.name, entry.offset_data, entry.size))
        return
    if suffix not in _TEXT_SUFFIXES or entry.size > _MOST_TEXT:
        sample.others.append(entry.name)
        return
    content = file.extractfile(entry)
    try:
        text = content.read().decode("utf-8") if content else ""
        if suffix == ".txt":
            sample.text = text.strip()
        else:
            value = json.loads(text)
            sample.description = value if isinstance(value, dict) else {}
    except ValueError as error:
        sample.problem = f"{entry.name} is not UTF-8 text or JSON: {error}"


def _add(
    shard: Path,
    key: str,
    sample: _Sample,
    language: str,
    utterances: list[Utterance],
    failures: list[Failure],
) -> None:
    """Adds a sample to the utterances or to the failures."""
    if not sample.audio:
        held = ", ".join(sample.others) or "text only"
        failures.append(
            _failure(shard, key, f"no {', '.join(AUDIO_SUFFIXES)} in the sample ({held})")
        )
        return
    for other, _, _ in sample.audio[1:]:
        reason = f"a second recording of the sample, {other}: the first is used"
        failures.append(_failure(shard, other, reason))
    if sample.problem:
        failures.append(_failure(shard, key, sample.problem))
        return
    name, offset, size = sample.audio[0]
    utterances.append(
        Utterance(
            id=f"{shard.stem}/{key}",
            path=str(shard),
            speaker=sample.find("speaker", "speaker_id") or UNKNOWN_SPEAKER,
            language=sample.find("language", "lang") or language,
            text=sample.text or sample.find("text", "transcript") or None,
            member=encode_member(offset=offset, size=size, name=name),
        )
    )


def _failure(shard: Path, name: str, reason: str) -> Failure:
    return Failure(f"{shard.stem}/{name}".rstrip("/"), str(shard), "list", reason)
