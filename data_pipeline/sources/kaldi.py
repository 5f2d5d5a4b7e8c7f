"""Data directories of Kaldi and ESPnet: wav.scp; optionally text, utt2spk, utt2lang and segments.

Entries of wav.scp that are commands or point into archives are failures; no command is ever run.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.audio.io import AUDIO_SUFFIXES
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import UNKNOWN_SPEAKER, Failure, Utterance, checked, encode_member
from data_pipeline.sources.folder import resolve


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
        recordings = _read_table(root / "wav.scp")
        if not recordings:
            raise UserError(f"{root / 'wav.scp'} names no recordings")
        tables = {}
        for name in ("text", "utt2spk", "utt2lang", "segments"):
            path = root / name
            tables[name] = _read_table(path) if path.exists() else {}
        utterances = []
        failures: list[Failure] = []
        used = set()
        pieces = tables["segments"] or {name: f"{name} 0 -1" for name in recordings}
        for name, piece in pieces.items():
            try:
                recording, start, end = piece.split()
                span = (float(start), float(end))
            except ValueError:
                reason = f"segments: {piece!r} is not RECORDING START END"
                failures.append(Failure(name, str(root / "segments"), "list", reason))
                continue
            used.add(recording)
            where = recordings.get(recording, "")
            path = resolve(where, folders)
            refusal = _refusal(recording, where, path, span)
            if not refusal and tables["text"] and name not in tables["text"]:
                refusal = "missing transcript: no line in text"
            if refusal:
                failures.append(Failure(name, where, "list", refusal))
                continue
            utterances.append(
                Utterance(
                    id=name,
                    path=str(path),
                    speaker=tables["utt2spk"].get(name) or UNKNOWN_SPEAKER,
                    language=tables["utt2lang"].get(name) or self.language,
                    text=tables["text"].get(name) or None,
                    member="" if span[1] < 0 else encode_member(start=span[0], end=span[1]),
                )
            )
        for name in recordings:
            if name not in used:
                reason = "not used by any line of segments"
                failures.append(Failure(name, recordings[name], "list", reason))
        return checked(utterances, failures)


def _refusal(recording: str, where: str, path: Path, span: tuple[float, float]) -> str | None:
    if not where:
        return f"recording {recording} has no line in wav.scp"
    if where.endswith("|") or where.startswith("|"):
        return "wav.scp holds a command: run it, and list the file that it writes"
    if path.suffix.lower() not in AUDIO_SUFFIXES:
        return f"wav.scp: not one of {', '.join(AUDIO_SUFFIXES)} (archives are not read)"
    if not path.is_file():
        return "wav.scp names a file that does not exist"
    if span[1] >= 0 and not 0.0 <= span[0] < span[1] < float("inf"):
        return f"segments: from {span[0]} to {span[1]} s"
    return None


def _read_table(path: Path) -> dict[str, str]:
    """Maps the first word of each line to the rest of the line."""
    table: dict[str, str] = {}
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            name, _, rest = line.strip().partition(" ")
            if name in table:
                raise UserError(f"{path}: line {number}: {name} occurs twice")
            table[name] = rest.strip()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name a data directory of Kaldi") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a UTF-8 file: {error}") from error
    return table
