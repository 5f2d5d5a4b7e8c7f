"""Manifests of generated samples: one directory per condition, with a manifest.jsonl in it.

`experiments.generate` writes them and `experiments.evaluate` reads them. A condition whose name
ends in `_unseen` holds speakers that were held out of training, one that ends in `_sentences` other
texts than digit strings, where the rest of its kind holds these.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_text

MANIFEST = "manifest.jsonl"
UNSEEN = "_unseen"
SENTENCES = "_sentences"  # other texts than digit strings, in a corpus of both
UNKNOWN_SPEAKER = "unknown"
TEXT_KINDS = ("digits", "free")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One line of a manifest, with fields in the order of its keys.

    Paths are relative to the condition's directory when written and absolute when read. *Prompted*
    conditions are speaker_transfer, voice_conversion, tts and dialogue.

    Attributes:
        id: identifies the utterance; equal in all conditions that render it.
        text: reference transcript where there is one; in dialogue the expected answer. None in
            unconditional.
        speaker: speaker of the source utterance; in tts and dialogue, which have none, the prompt's
            speaker. Empty in unconditional, which is null in the file and UNKNOWN_SPEAKER when
            read.
        source_audio: recording of the utterance. None in tts, dialogue and unconditional.
        prompt_speaker: prompted conditions: speaker of the prompt. recording and codec: the same
            as `speaker`, where that speaker has another recording.
        prompt_audio: prompted conditions: recording of the prompt. recording and codec: another
            recording of the speaker, to which the upper bound of similarity is measured.
        prompt_reference_audio: prompted conditions: a recording of the prompt's speaker that is not
            in the prompt, where there is one.
        prompt_reference_codec_audio: `prompt_reference_audio` resynthesised by the codec.
        pair: unconditional: names the two renderings of the same units.
        text_kind: "digits" where `text` is digit strings (in unconditional: where the corpus is),
            else "free".
        language: code of the language of `text`, where it is known.
        audio: the sample itself.
        ended_by: unconditional and speech_continuation: what ended the units that were sampled:
            `end`, that of the model, `length`, or a guard.
        question: dialogue: transcript of the spoken question, where there is one.
        question_audio: dialogue: recording of the question.
        question_transcript: dialogue: the question as the model transcribed it.
        answer_text: dialogue: the answer that the model wrote before it spoke.
    """

    id: str
    text: str | None = None
    speaker: str
    source_audio: Path | None = None
    prompt_speaker: str | None = None
    prompt_audio: Path | None = None
    prompt_reference_audio: Path | None = None
    prompt_reference_codec_audio: Path | None = None
    pair: str | None = None
    text_kind: str = "free"
    language: str | None = None
    audio: Path
    ended_by: str | None = None
    question: str | None = None
    question_audio: Path | None = None
    question_transcript: str | None = None
    answer_text: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """The line's object, with `language`, `ended_by` and keys of dialogues where they apply."""
        values: dict[str, str | None] = {}
        for field in dataclasses.fields(self):
            if self.question_audio is None and field.name in _DIALOGUE_FIELDS:
                continue
            value = getattr(self, field.name)
            if field.name in ("language", "ended_by") and value is None:
                continue
            values[field.name] = value.as_posix() if isinstance(value, Path) else value
        return values | {"speaker": self.speaker or None}

    @classmethod
    def from_json(cls, values: dict[str, Any], directory: Path, where: str) -> Self:
        """The sample of a line's object; keys that are no fields are ignored.

        Args:
            values: the object.
            directory: of the condition; becomes part of the paths.
            where: names the line in messages.

        Raises:
            UserError: a field is missing or of the wrong type.
        """
        for name in ("id", "audio"):
            if not isinstance(values.get(name), str) or not values[name]:
                raise UserError(f"{where}: field {name!r} must be text, is {values.get(name)!r}")
        found: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = values.get(field.name)
            if value is not None and not isinstance(value, str):
                raise UserError(f"{where}: field {field.name!r} must be text or null")
            found[field.name] = value
        for name in _PATH_FIELDS:
            found[name] = directory / found[name] if found[name] else None
        found["speaker"] = found["speaker"] or UNKNOWN_SPEAKER
        kind = found["text_kind"] = found["text_kind"] or "free"
        if kind not in TEXT_KINDS:
            raise UserError(f"{where}: field 'text_kind' is {kind!r}, not one of {TEXT_KINDS}")
        return cls(**found)


_PATH_FIELDS = tuple(f.name for f in dataclasses.fields(Sample) if f.type in (Path, Path | None))
_DIALOGUE_FIELDS = ("question", "question_audio", "question_transcript", "answer_text")


def write_manifest(directory: Path, samples: Iterable[Sample]) -> None:
    """Writes the manifest of a condition, atomically; paths must be relative to `directory`."""
    lines = [json.dumps(sample.to_json()) + "\n" for sample in samples]
    write_text(directory / MANIFEST, "".join(lines))


def read_manifest(path: Path) -> list[Sample]:
    """Reads one manifest, in the order of its lines.

    Raises:
        UserError: the file cannot be read or holds no lines, a line is not a JSON object, a field
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
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: not JSON ({error.msg}); delete the file and generate the samples again"
            ) from None
        if not isinstance(values, dict):
            raise UserError(f"{where}: a JSON object is expected, not {type(values).__name__}")
        sample = Sample.from_json(values, path.parent, where)
        if sample.id in samples:
            raise UserError(f"{where}: id {sample.id!r} occurs twice")
        samples[sample.id] = sample
    if not samples:
        raise UserError(f"{path}: holds no samples")
    return list(samples.values())


def read_samples(samples_dir: str | Path) -> dict[str, list[Sample]]:
    """Reads every condition in a directory: condition name -> its samples, sorted by name.

    Raises:
        UserError: there is no such directory, or none of its subdirectories holds a manifest.
    """
    root = Path(samples_dir).resolve()
    if not root.is_dir():
        raise UserError(f"{samples_dir}: no such directory of samples")
    manifests = sorted(root.glob(f"*/{MANIFEST}"))
    if not manifests:
        raise UserError(f"{samples_dir}: no condition in it has a {MANIFEST}; run generate first")
    return {path.parent.name: read_manifest(path) for path in manifests}


def content_hash(path: Path) -> str | None:
    """The SHA-256 of a file's content; None when it cannot be read."""
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
        UserError: a pair does not have exactly two renderings.
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
    """The audio files of a sample whose speaker embeddings are compared."""
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
    # The sample is the source itself, so it is compared with the speaker's next recording.
    same_speaker = [
        s for s in samples if s.speaker == sample.speaker and s.speaker != UNKNOWN_SPEAKER
    ]
    if len(same_speaker) < 2:
        return None, ""
    ids = [s.id for s in same_speaker]
    following = same_speaker[(ids.index(sample.id) + 1) % len(same_speaker)]
    return following.source_audio, "another recording of the speaker"
