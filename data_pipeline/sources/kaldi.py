"""Data directories of Kaldi and ESPnet: wav.scp; optionally text, utt2spk, utt2lang and segments.

Entries of wav.scp that are commands or point into archives are failures; no command is ever run.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.audio.io import AUDIO_SUFFIXES
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import UNKNOWN_SPEAKER, Failure, Utterance, checked, encode_member
from data_pipeline.sources.flaws import flaw, printable
from data_pipeline.sources.folder import resolve
from data_pipeline.sources.speakers import report_speakers

_WHOLE = (0.0, -1.0)  # the times of a complete recording


@dataclass(frozen=True)
class KaldiSource:
    """A Kaldi data directory.

    Attributes:
        data_dir: the directory.
        audio_dir: base of paths that are not relative to the data directory (ESPnet writes them
            relative to its recipe directory); None is the current directory.
        language: of utterances without an entry in utt2lang.
    """

    data_dir: str | os.PathLike[str]
    audio_dir: str | os.PathLike[str] | None = None
    language: str = "und"

    def list(self) -> tuple[list[Utterance], list[Failure]]:
        """See `base.Source`."""
        root = Path(self.data_dir).absolute()
        folders = [root, Path(self.audio_dir or os.curdir).absolute()]
        broken: dict[str, str] = {}
        recordings = _read_table(root / "wav.scp", broken)
        if not recordings:
            raise UserError(f"{root / 'wav.scp'} names no recordings")
        tables = {}
        for name in ("text", "utt2spk", "utt2lang", "segments"):
            path = root / name
            tables[name] = _read_table(path, broken) if path.exists() else {}
        utterances = []
        failures: list[Failure] = []
        used = set()
        pieces = tables["segments"] or {name: f"{name} 0 -1" for name in recordings}
        for name, piece in pieces.items():
            try:
                recording, start, end = piece.split()
                span = (float(start), float(end))
            except ValueError:
                reason = broken.get(name) or f"segments: {piece!r} is not RECORDING START END"
                failures.append(Failure(printable(name), str(root / "segments"), "list", reason))
                continue
            used.add(recording)
            where = recordings.get(recording, "")
            refusal = broken.get(name) or broken.get(recording)
            try:
                path = resolve(where, folders)
            except OSError as error:
                path, refusal = root, refusal or f"wav.scp: {error.strerror}"
            refusal = refusal or _refusal(recording, where, path, span)
            if not refusal and tables["text"] and name not in tables["text"]:
                refusal = "missing transcript: no line in text"
            if refusal:
                failures.append(Failure(printable(name), printable(where), "list", refusal))
                continue
            utterances.append(
                Utterance(
                    id=name,
                    path=str(path),
                    speaker=tables["utt2spk"].get(name) or UNKNOWN_SPEAKER,
                    language=tables["utt2lang"].get(name) or self.language,
                    text=tables["text"].get(name) or None,
                    member="" if span == _WHOLE else encode_member(start=span[0], end=span[1]),
                )
            )
        for name in recordings:
            if name not in used:
                reason = broken.get(name) or "not used by any line of segments"
                where = printable(recordings[name])
                failures.append(Failure(printable(name), where, "list", reason))
        for name in broken.keys() - pieces.keys() - recordings.keys():
            failures.append(Failure(printable(name), str(root), "list", broken[name]))
        utterances, failures = checked(utterances, failures)
        report_speakers(utterances, "utt2spk", "list them in utt2spk")
        return utterances, failures


def _refusal(recording: str, where: str, path: Path, span: tuple[float, float]) -> str | None:
    if not where:
        return f"recording {recording} has no line in wav.scp"
    if where.endswith("|") or where.startswith("|"):
        return "wav.scp holds a command: run it, and list the file that it writes"
    if path.suffix.lower() not in AUDIO_SUFFIXES:
        return f"wav.scp: not one of {', '.join(AUDIO_SUFFIXES)} (archives are not read)"
    if not path.is_file():
        return "wav.scp names a file that does not exist"
    if span != _WHOLE and not 0.0 <= span[0] < span[1] < float("inf"):
        return f"segments: from {span[0]} to {span[1]} s"
    return None


def _read_table(path: Path, broken: dict[str, str]) -> dict[str, str]:
    """Maps the first word of each line to the rest of the line; words end at spaces and tabs.

    Args:
        path: UTF-8 text.
        broken: gets the words whose lines cannot be used, and why.
    """
    table: dict[str, str] = {}
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name a data directory of Kaldi") from error
    # Only these end a line: a text may hold U+2028, the line separator.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        name, _, rest = line.strip().replace("\t", " ").partition(" ")
        if not name:
            continue
        if name in table:
            raise UserError(f"{path}: line {number}: {name} occurs twice")
        table[name] = rest.strip()
        problem = flaw(line)
        if problem:
            broken[name] = f"line {number} of {path.name} holds {problem}"
    return table
