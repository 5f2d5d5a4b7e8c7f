"""Speech of several languages: the held-out recordings of the run's own dataset."""

from collections.abc import Sequence
from pathlib import Path

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import Record, RecordReader
from data_pipeline.runtime.errors import UserError
from gpst_jax.samples.items import find_audio
from gpst_jax.samples.texts import language_code
from gpst_jax.tasks import base
from gpst_jax.tasks.base import Item, ItemList, ListedTask, Request

PER_LANGUAGE = 100
SHORTEST, LONGEST = 1.0, 20.0  # seconds
SHORTEST_PROMPT = 2.0
SPLITS = ("valid", "unseen")
SEED = 0


def choose(request: Request) -> ItemList:
    """Recordings with a transcript in a known language, each with a prompt of another speaker.

    Raises:
        UserError: the dataset names no languages or no transcripts, or its recordings are gone.
    """
    dataset = request.run_dataset(MULTILINGUAL.name)
    spec = DatasetSpec.load(dataset)
    splits = [split for split in SPLITS if split in spec.splits]
    root = find_audio(dataset, splits, request.audio_dir)
    records = [record for split in splits for record in _usable(dataset, split)]
    by_language: dict[str, dict[str, Record]] = {}
    for record in records:
        code = language_code(record.language)
        if code is not None and record.text and record.end - record.start >= SHORTEST:
            by_language.setdefault(code, {})[_name(record)] = record
    if not by_language:
        raise UserError(
            f"{dataset}: no held-out recording has both a language and a transcript, which "
            f"--task={MULTILINGUAL.name} needs: tokenise with --transcripts that have a column "
            "language"
        )
    items = []
    for code, of_language in sorted(by_language.items()):
        for name in sorted(base.by_hash(of_language, SEED, code)[:PER_LANGUAGE]):
            record = of_language[name]
            prompt = _prompt(records, record.speaker, name)
            items.append(
                Item(
                    id=name,
                    speaker=record.speaker,
                    text=record.text,
                    source=record.source,
                    prompt=prompt.source if prompt else None,
                    prompt_speaker=prompt.speaker if prompt else None,
                    language=code,
                )
            )
    return ItemList(base.checked(items, str(dataset)), root)


def _usable(dataset: Path, split: str) -> list[Record]:
    """Records of whole recordings; those that were cut have a number behind a hash sign."""
    reader = RecordReader(dataset, split)
    records = (reader[index] for index in range(len(reader)))
    return [record for record in records if "#" not in record.id and record.end <= LONGEST]


def _name(record: Record) -> str:
    return record.id.replace("/", "_")


def _prompt(records: Sequence[Record], speaker: str, name: str) -> Record | None:
    """A recording of another speaker, of any language; None where there is none."""
    long_enough: dict[str, dict[str, Record]] = {}
    for record in records:
        if record.speaker not in (speaker, "unknown") and record.end >= SHORTEST_PROMPT:
            long_enough.setdefault(record.speaker, {})[_name(record)] = record
    if not long_enough:
        return None
    of_speaker = long_enough[base.by_hash(long_enough, SEED, name)[0]]
    return of_speaker[base.by_hash(of_speaker, SEED, name)[0]]


MULTILINGUAL = ListedTask(
    name="multilingual",
    source="GPST (arXiv 2406.00976, section 4): word errors of English and character errors of "
    "Chinese, each by a recogniser of many languages; here on the languages of the run's dataset",
    rule=f"held-out recordings of {SHORTEST:g} to {LONGEST:g} s with a transcript in a known "
    f"language, {PER_LANGUAGE} of each by SHA-256 of (seed {SEED}, language, id); prompt: another "
    f"speaker's recording of at least {SHORTEST_PROMPT:g} s, of any language, by the same",
    modes={
        "gpst": ("semantic_to_acoustic", "speaker_transfer"),
        "flow": ("voice_conversion",),
        "soundstorm": ("voice_conversion",),
    },
    choose=choose,
    wer=("wer/whisper-base-basic", "cer/whisper-base-basic"),
)
