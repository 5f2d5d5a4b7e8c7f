"""Which audio a cut or a supervision of lhotse means, and what is said in it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.audio.io import AUDIO_SUFFIXES
from data_pipeline.sources.base import SPLITS, UNKNOWN_SPEAKER, Utterance, encode_member
from data_pipeline.sources.files import unreadable
from data_pipeline.sources.folder import resolve
from data_pipeline.sources.lhotse_manifests.shar import Stored
from data_pipeline.sources.tables import canonical

_ROUNDING = 0.05  # seconds: times of manifests are rounded
_DIGITS = 8  # of seconds: far below a sample, far above what additions leave behind
# Applied by resampling once, from the file's own rate.
_HARMLESS = ("Resample",)
# What lhotse's objects raise in use: few of the types that they are read with are checked.
MALFORMED = (TypeError, ValueError, AttributeError)
_REMEDIES = {
    "command": "run it, and name the file that it writes",
    "url": "download it, and name the file",
    "memory": "write it with cuts.save_audios(DIR)",
}


class RefusedError(Exception):
    """A cut or supervision cannot be used; the text is the reason."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording.

    Attributes:
        id: of the utterance.
        start: in the recording, in seconds.
        end: in the recording, in seconds.
        channels: of the recording.
        supervisions: what is said in it.
    """

    id: str
    start: float
    end: float
    channels: tuple[int, ...]
    supervisions: Sequence[Any]


def pieces(cut: Any, per: str) -> Iterator[Piece | tuple[str, str]]:
    """The pieces of a cut, or (id, reason) of a supervision that is not in it.

    Args:
        cut: a MonoCut or MultiCut.
        per: "supervision", one piece for each; "cut", one for all. A cut without supervisions is
            one piece.
    """
    if per == "cut" or not cut.supervisions:
        end = cut.start + cut.duration
        yield Piece(cut.id, cut.start, end, _tuple(cut.channel), cut.supervisions)
        return
    for supervision in cut.supervisions:
        try:
            yield _said(cut, supervision)
        except RefusedError as refusal:
            yield supervision.id, str(refusal)
        except MALFORMED as error:
            yield supervision.id, f"a malformed supervision: {error}"


def _said(cut: Any, supervision: Any) -> Piece:
    """The piece of a supervision, whose times count from the cut's start."""
    start, end = supervision.start, supervision.start + supervision.duration
    if start < -_ROUNDING or end > cut.duration + _ROUNDING or not start < end:
        raise RefusedError(
            f"from {start:g} to {end:g} s of cut {cut.id}, which holds {cut.duration:g} s: "
            "give cuts of whole supervisions (cuts.trim_to_supervisions()), or per=cut"
        )
    start, end = cut.start + max(0.0, start), cut.start + min(end, cut.duration)
    return Piece(supervision.id, start, end, _tuple(supervision.channel), [supervision])


def utterance(
    piece: Piece,
    recording: Any,
    custom: Any,
    stored: Stored | None,
    folders: Sequence[Path],
    language: str,
) -> Utterance:
    """The utterance of a piece.

    Args:
        piece: of a cut.
        recording: the cut's, or None.
        custom: the cut's fields of its own, a dict or None.
        stored: the audio of a cut in a shar directory.
        folders: that paths may be relative to.
        language: where no supervision says it.

    Raises:
        RefusedError: the audio is in no single file, or is changed when lhotse loads it.
    """
    path, where, channels = _locate(piece, recording, stored, folders)
    start, end = round(max(0.0, piece.start), _DIGITS), round(piece.end, _DIGITS)
    if end > recording.duration + _ROUNDING or not start < end:
        raise RefusedError(
            f"from {start:g} to {end:g} s of recording {recording.id}, which holds "
            f"{recording.duration:g} s"
        )
    end = min(end, recording.duration)
    if (start, end) != (0.0, recording.duration):
        where |= {"start": start, "end": end}
    where |= channels
    custom = custom or {}
    texts = [item.text.strip() for item in sorted(piece.supervisions, key=lambda item: item.start)
             if item.text]  # fmt: skip
    given = [(item.custom or {}).get("split") for item in piece.supervisions]
    try:
        member = encode_member(**where)
    except UnicodeEncodeError as error:
        raise RefusedError("its name is not UTF-8") from error
    return Utterance(
        id=str(piece.id),
        path=str(path),
        speaker=_only([item.speaker for item in piece.supervisions]) or UNKNOWN_SPEAKER,
        language=_only([item.language for item in piece.supervisions]) or language,
        text=" ".join(filter(None, texts)) or None,
        split=_split(_only(given) or str(custom.get("split") or "")),
        member=member,
    )


def _locate(
    piece: Piece, recording: Any, stored: Stored | None, folders: Sequence[Path]
) -> tuple[Path, dict[str, object], dict[str, object]]:
    """File, byte range and channel of a piece; raises RefusedError."""
    if recording is None:
        raise RefusedError("the cut has no recording (features are not audio)")
    _refuse_transforms(recording)
    wanted = set(piece.channels)
    holding = [source for source in recording.sources if wanted & set(source.channels)]
    if len(holding) != 1 or not wanted <= set(holding[0].channels):
        known = [channel for source in recording.sources for channel in source.channels]
        raise RefusedError(
            f"channels {_list(wanted)} of recording {recording.id} are in {len(holding)} files "
            f"(it has {_list(known)}): give a cut of one file's channels"
        )
    (source,) = holding
    inside: dict[str, object] = {}
    if source.type == "shar":
        if stored is None:
            raise RefusedError("its shard holds no audio for it")
        path, name = stored.tar, stored.name
        inside = {"offset": stored.offset, "size": stored.size, "name": name}
    elif source.type == "file":
        path = resolve(str(source.source), folders)
        name = path.name
    else:
        remedy = _REMEDIES.get(source.type, "name a file")
        raise RefusedError(f"recording {recording.id} is a {source.type}: {remedy}")
    if not name.lower().endswith(AUDIO_SUFFIXES):
        which = f"not one of {', '.join(AUDIO_SUFFIXES)}"
        raise RefusedError(f"{name}: {unreadable(name) or which}")
    if not path.is_file():
        raise RefusedError(f"recording {recording.id}: {path} does not exist")
    if wanted == set(source.channels):
        return path, inside, {}  # the mean of all, as of every recording
    if len(wanted) > 1:
        raise RefusedError(
            f"channels {_list(wanted)} of the {len(source.channels)} in {name}: give a cut of one "
            "of them, or of all"
        )
    return path, inside, {"channel": list(source.channels).index(wanted.pop())}


def _refuse_transforms(recording: Any) -> None:
    for transform in recording.transforms or ():
        given = transform.get("name") if isinstance(transform, dict) else type(transform).__name__
        if given not in _HARMLESS:
            raise RefusedError(
                f"recording {recording.id} is changed by {given} when lhotse loads it: write it "
                "with cuts.save_audios(DIR), or give the manifest of before"
            )


def _tuple(channels: Any) -> tuple[int, ...]:
    return tuple(channels) if isinstance(channels, list | tuple) else (channels,)


def _list(channels: Any) -> str:
    return ", ".join(map(str, sorted(channels)))


def _only(values: Sequence[Any]) -> str:
    """The value of all that have one, as text; "" if there is none, or several."""
    found = {str(value).strip() for value in values if value not in (None, "")}
    return found.pop() if len(found) == 1 else ""


def _split(name: str) -> str:
    found = canonical({"split": name}).get("split", "")
    return found if found in SPLITS else ""  # others are left to `assign_splits`
