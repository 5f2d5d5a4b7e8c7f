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
from data_pipeline.sources.flaws import printable
from data_pipeline.sources.speakers import report_speakers
from data_pipeline.sources.tables import NAMES, normalized

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
        utterances, failures = checked(utterances, failures)
        report_speakers(
            utterances, "the samples' descriptions", "name them in the .json of each sample"
        )
        return utterances, failures


@dataclass
class _Sample:
    audio: list[tuple[str, int, int]] = field(default_factory=list)  # name, offset, size
    description: dict = field(default_factory=dict)
    text: str = ""
    others: list[str] = field(default_factory=list)
    problem: str = ""

    def find(self, name: str) -> str:
        """A value of the description under the names of `tables.NAMES`, "" without one.

        Raises:
            ValueError: it is neither text nor number.
        """
        for alias in NAMES[name]:
            value = self.description.get(alias)
            if isinstance(value, list | dict | bool):
                kind = type(value).__name__
                raise ValueError(f"{alias} is a {kind}, not a text or number")
            if value is not None and str(value).strip():
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
        text = content.read().decode("utf-8-sig") if content else ""
        if suffix == ".txt":
            sample.text = text.strip()
        else:
            value = json.loads(text)
            found = value.items() if isinstance(value, dict) else ()
            sample.description = {normalized(name): content for name, content in found}
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
    try:
        speaker, spoken = sample.find("speaker"), sample.find("language")
        text = sample.text or sample.find("text")
        member = encode_member(offset=offset, size=size, name=name)
    except UnicodeEncodeError:
        failures.append(_failure(shard, key, "its name is not UTF-8"))
        return
    except ValueError as error:
        failures.append(_failure(shard, key, f"JSON: {error}"))
        return
    utterances.append(
        Utterance(
            id=f"{shard.stem}/{key}",
            path=str(shard),
            speaker=speaker or UNKNOWN_SPEAKER,
            language=spoken or language,
            text=text or None,
            member=member,
        )
    )


def _failure(shard: Path, name: str, reason: str) -> Failure:
    return Failure(printable(f"{shard.stem}/{name}".rstrip("/")), str(shard), "list", reason)
