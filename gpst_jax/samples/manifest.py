"""Reads generated samples: one directory for each condition, with a manifest.jsonl in it.

`experiments/generate.py` writes them. A condition whose name ends in `_unseen` holds voices that
training never heard.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError

UNSEEN = "_unseen"

MANIFEST = "manifest.jsonl"
UNSEEN = "_unseen"
TEXT_KINDS = ("digits", "free")
_AUDIO_FIELDS = (
    "source_audio",
    "prompt_audio",
    "prompt_reference_audio",
    "prompt_reference_codec_audio",
    "question_audio",
)
_TEXT_FIELDS = (
    "text",
    "text_kind",
    "speaker",
    "prompt_speaker",
    "pair",
    "question",
    "question_transcript",
    "answer_text",
)


@dataclass(frozen=True)
class Sample:
    """One line of a manifest, with its paths made absolute."""

    id: str  # equal in all conditions that render the same utterance
    audio: Path
    speaker: str  # whose words: the source speaker
    text: str | None = None  # reference transcript
    text_kind: str = "free"  # digits | free
    source_audio: Path | None = None  # original recording of the target utterance
    prompt_speaker: str | None = None
    prompt_audio: Path | None = None  # original recording of the prompt
    prompt_reference_audio: Path | None = None  # another recording of the prompt speaker
    prompt_reference_codec_audio: Path | None = None  # the same, through the codec
    pair: str | None = None  # shared by two renderings of the same units
    question: str | None = None  # of a dialogue; `text` is then the expected answer
    question_audio: Path | None = None  # the same, as it was asked
    question_transcript: str | None = None  # what the model understood
    answer_text: str | None = None  # what the model wrote before it spoke


def _sample(fields: dict[str, Any], folder: Path, where: str) -> Sample:
    for name in ("id", "audio"):
        if not isinstance(fields.get(name), str) or not fields[name]:
            raise UserError(f"{where}: field {name!r} must be a text, is {fields.get(name)!r}")
    for name in (*_TEXT_FIELDS, *_AUDIO_FIELDS):
        if fields.get(name) is not None and not isinstance(fields[name], str):
            raise UserError(f"{where}: field {name!r} must be a text or null")
    text_kind = fields.get("text_kind") or "free"
    if text_kind not in TEXT_KINDS:
        raise UserError(f"{where}: field 'text_kind' is {text_kind!r}, not one of {TEXT_KINDS}")
    paths = {name: folder / fields[name] for name in _AUDIO_FIELDS if fields.get(name)}
    return Sample(
        id=fields["id"],
        audio=folder / fields["audio"],
        speaker=fields.get("speaker") or "unknown",
        text=fields.get("text"),
        text_kind=text_kind,
        prompt_speaker=fields.get("prompt_speaker"),
        pair=fields.get("pair"),
        question=fields.get("question"),
        question_transcript=fields.get("question_transcript"),
        answer_text=fields.get("answer_text"),
        **paths,
    )


def read_manifest(path: Path) -> list[Sample]:
    """Reads one manifest; the order of its lines is kept.

    Raises:
        UserError: the file cannot be read, holds no lines, a line is not a JSON object, a field
            is missing or of the wrong type, or an id occurs twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    samples: dict[str, Sample] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg}); generate the samples anew") from None
        if not isinstance(fields, dict):
            raise UserError(f"{where}: a JSON object is expected, not {type(fields).__name__}")
        sample = _sample(fields, path.parent, where)
        if sample.id in samples:
            raise UserError(f"{where}: id {sample.id!r} occurs twice")
        samples[sample.id] = sample
    if not samples:
        raise UserError(f"{path}: holds no samples")
    return list(samples.values())


def read_samples(samples_dir: str | Path) -> dict[str, list[Sample]]:
    """Reads every condition below a directory: condition name -> its samples, sorted by name.

    Raises:
        UserError: there is no such directory, or none of its folders holds a manifest.
    """
    root = Path(samples_dir).resolve()
    if not root.is_dir():
        raise UserError(f"{samples_dir}: no such directory of samples")
    manifests = sorted(root.glob(f"*/{MANIFEST}"))
    if not manifests:
        raise UserError(f"{samples_dir}: no condition in it has a {MANIFEST}; run generate first")
    return {path.parent.name: read_manifest(path) for path in manifests}


def content_hash(path: Path) -> str | None:
    """The sha256 of a file's content; None when it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def first_of_seeded_order(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """At most `count` samples, chosen by a hash of (seed, id).

    The choice does not depend on the condition or on the other samples, so conditions that render
    the same utterances keep the same ones and stay paired.
    """

    def order(sample: Sample) -> bytes:
        return hashlib.sha256(f"{seed}/{sample.id}".encode()).digest()

    return sorted(samples, key=order)[:count]


def pairs(samples: Iterable[Sample]) -> list[tuple[Sample, Sample]]:
    """The two renderings of each pair, in the order of the manifest.

    Raises:
        UserError: a pair has not exactly two renderings.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.pair is not None:
            groups.setdefault(sample.pair, []).append(sample)
    for name, group in groups.items():
        if len(group) != 2:
            raise UserError(f"pair {name!r} has {len(group)} renderings in its manifest, not two")
    return [(group[0], group[1]) for group in groups.values()]


def voice_files(sample: Sample) -> list[Path]:
    """The sounds of a sample whose voices are compared."""
    files = [sample.audio, sample.prompt_audio, sample.source_audio]
    if sample.prompt_speaker not in (None, sample.speaker):
        files += [sample.prompt_reference_audio, sample.prompt_reference_codec_audio]
    return [path for path in files if path is not None]


def similarity_reference(sample: Sample, samples: list[Sample]) -> tuple[Path | None, str]:
    """The original recording that a sample's voice is compared with, and what it is.

    The prompt where there is one, else the source. `samples` are those of the same condition.
    """
    if sample.prompt_audio is not None:
        return sample.prompt_audio, "prompt_audio"
    if sample.source_audio is None:
        return None, ""
    if content_hash(sample.source_audio) != content_hash(sample.audio):
        return sample.source_audio, "source_audio"
    # The sample is its own source: another recording of the speaker says more than itself.
    voice = [s for s in samples if s.speaker == sample.speaker and s.speaker != "unknown"]
    if len(voice) < 2:
        return None, ""
    ids = [s.id for s in voice]
    following = voice[(ids.index(sample.id) + 1) % len(voice)]
    return following.source_audio, "another recording of the speaker"


def blank_entry() -> dict[str, Any]:
    """A manifest's line that says nothing yet."""
    names = (
        "id text speaker source_audio prompt_speaker prompt_audio prompt_reference_audio "
        "prompt_reference_codec_audio pair"
    )
    return {name: None for name in names.split()} | {"text_kind": "free"}
