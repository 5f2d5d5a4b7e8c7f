"""Names of a table's columns, as the large corpora write them, and what its cells must fulfil."""

import functools
import re
from collections.abc import Mapping, Sequence

from data_pipeline.sources.base import SPLITS
from data_pipeline.sources.flaws import flaw

NAMES: Mapping[str, tuple[str, ...]] = {
    "path": (
        "path",
        "audio_filepath",  # NeMo
        "audio_path",
        "audio",  # Hugging Face, Coqui
        "wav",
        "file_name",  # AudioFolder
        "filename",
        "file_path",
        "filepath",
        "wav_filename",  # DeepSpeech
        "wav_path",
        "wav_file",
        "audio_file",
        "clip",
    ),
    "id": ("id", "utt_id", "key"),
    "speaker": (
        "speaker",
        "speaker_id",  # LibriTTS, MLS, VoxPopuli, VCTK
        "client_id",  # Common Voice
        "spk",
        "spk_id",
        "speaker_name",  # Coqui
        "reader",  # LibriSpeech
        "reader_id",
    ),
    "text": (
        "text",  # NeMo, LibriSpeech, GigaSpeech, WenetSpeech
        "transcript",  # MLS, DeepSpeech
        "sentence",  # Common Voice
        "transcription",  # AudioFolder, FLEURS
        "normalized_text",  # VoxPopuli, LJSpeech
        "text_normalized",  # LibriTTS
        "normalized_transcription",
        "normalized",
        "text_tn",  # GigaSpeech
        "text_original",
        "original_text",
        "raw_text",
        "raw_transcription",
    ),
    "language": ("language", "lang", "locale", "lang_code", "language_code"),
    "split": ("split",),
    "start": ("start", "offset", "begin_time", "start_time", "start_seconds", "begin"),
    "end": ("end", "end_time", "end_seconds"),
    "duration": ("duration", "duration_seconds", "dur"),
}
# MLS and GigaSpeech keep the times of the recording that each of their files was cut from.
_TIMES_IN_ORIGINAL = ("begin_time", "end_time", "start_time")
_ORIGINAL = re.compile(r"original_.*path")
_TIME_LIKE = re.compile(r"(start|begin|end|stop|offset|onset)(_|\[|\(|$)")
_TEXT_LIKE = re.compile(r"text|transcri|sentence|utterance|caption|words|label|script")
_WORDS = re.compile(r"[^\W\d_]+(\W+[^\W\d_]+)+")
_SPLITS = {"dev": "valid", "validation": "valid"} | {name: name for name in SPLITS}


def understand(header: Sequence[str]) -> dict[str, list[int]]:
    """Maps our names to the columns that hold them, in order of preference.

    Raises:
        ValueError: two columns with one name.
    """
    names = [normalized(name) for name in header]
    known = {alias for aliases in NAMES.values() for alias in aliases}
    for name in names:
        if name in known and names.count(name) > 1:
            raise ValueError(f"two columns {name!r}: rename one")
    hidden = _TIMES_IN_ORIGINAL if any(map(_ORIGINAL.fullmatch, names)) else ()
    found = {
        ours: [names.index(alias) for alias in aliases if alias in names and alias not in hidden]
        for ours, aliases in NAMES.items()
    }
    return {ours: columns for ours, columns in found.items() if columns}


# Rows of JSON have the same few names.
@functools.lru_cache(maxsize=1024)
def normalized(name: str) -> str:
    """A column's name without case, spaces, hyphens and marks around it."""
    return re.sub(r"[\s-]+", "_", name.strip("\ufeff\"' \t\r\n")).lower()


def canonical(cells: Mapping[str, str]) -> dict[str, str]:
    """The cells, with the name of the split as we write it."""
    split = cells.get("split", "")
    return {**cells, "split": _SPLITS.get(split.lower(), split)} if split else dict(cells)


def row_flaw(cells: Mapping[str, str]) -> str:
    """The first flaw of a row's cells, "" if there is none."""
    for name, cell in cells.items():
        found = flaw(cell)
        if found:
            return f"column {name!r} holds {found}"
    return ""


def not_understood(
    header: Sequence[str], used: Mapping[str, Sequence[int]], sample: Sequence[Sequence[str]]
) -> list[str]:
    """What must be said about columns that are not used: sentences, none if all is well.

    Args:
        header: names of the columns.
        used: see `understand`.
        sample: some rows.
    """
    taken = {column for columns in used.values() for column in columns}
    texts, times = [], []
    for column, name in enumerate(header):
        if column in taken:
            continue
        cells = [row[column].strip() for row in sample if column < len(row)]
        cells = [cell for cell in cells if cell]
        spoken = sum(bool(_WORDS.fullmatch(cell.strip(".,;:!?\"'¡¿ "))) for cell in cells)
        if _TEXT_LIKE.search(normalized(name)) or spoken > len(cells) / 2:
            texts.append(name)
        if _TIME_LIKE.match(normalized(name)):
            times.append(name)
    said = []
    if texts and "text" not in used:
        names = ", ".join(map(repr, texts))
        said.append(f"{names} looks like a transcript, but is not used: name the column 'text'")
    if times and "start" not in used and "end" not in used:
        names = ", ".join(map(repr, times))
        said.append(
            f"{names} looks like times of pieces, but is not used: recordings are read whole; "
            "for pieces, name the columns 'start' and 'end', in seconds of the file at 'path'"
        )
    return said
