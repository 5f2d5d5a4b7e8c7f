"""What a task is: a frozen list of items, the modes that render them, the recipes of its source.

A list is made by a rule that is code: ids are sorted, filters are stated, and every choice is by a
hash of (seed, ids), so that it depends neither on the order of files nor on the other items. The
digest of a list says whether two results are about the same items.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import soundfile

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import file_sha256

Choice = TypeVar("Choice")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One item of a list; recordings are named relative to the root of the list.

    Attributes:
        id: names it, and its files.
        speaker: of the recording `source`; where there is none, of the prompt.
        text: what is said.
        source: recording of what is said, as `sources.reading.stored_source` names it: the source
            of modes that take one, and the ceiling of all.
        prompt: recording of the voice.
        prompt_speaker: its speaker.
        language: code of the language of `text`, where it is known.
    """

    id: str
    speaker: str
    text: str | None = None
    source: str | None = None
    prompt: str | None = None
    prompt_speaker: str | None = None
    language: str | None = None


@dataclasses.dataclass(frozen=True)
class ItemList:
    """The items of a task, in order.

    Attributes:
        items: with unique ids.
        root: directory that recordings are named relative to.
        list_file: the published list that they were read from, if there is one.
    """

    items: tuple[Item, ...]
    root: Path
    list_file: Path | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of the items, a line of JSON each; the root does not count."""
        return digest(json.dumps(dataclasses.asdict(item), sort_keys=True) for item in self.items)

    def few(self, count: int, seed: int = 0) -> "ItemList":
        """At most `count` items, chosen by a hash of (seed, id), in the order of the list."""
        chosen = set(by_hash((item.id for item in self.items), seed, "items")[:count])
        kept = tuple(item for item in self.items if item.id in chosen)
        return dataclasses.replace(self, items=kept)

    def describe(self) -> dict[str, object]:
        """Count and digests, as JSON values."""
        about: dict[str, object] = {"count": len(self.items), "sha256": self.sha256}
        if self.list_file is not None:
            about["list"] = {"file": self.list_file.name, "sha256": file_sha256(self.list_file)}
        return about


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user names for a task: flags of `experiments.evaluate`.

    Attributes:
        corpus_dir: directory of the corpus.
        list_file: the published list.
        dataset: the run's dataset, with its shards.
        audio_dir: root of the recordings of that dataset; None: where they were then.
    """

    corpus_dir: Path | None = None
    list_file: Path | None = None
    dataset: Path | None = None
    audio_dir: Path | None = None

    def corpus(self, task: str, what: str) -> Path:
        """The directory of the corpus; raises UserError without one."""
        if self.corpus_dir is None:
            raise UserError(f"--task={task} needs --corpus_dir: {what}")
        if not self.corpus_dir.is_dir():
            raise UserError(f"--corpus_dir={self.corpus_dir}: no such directory")
        return self.corpus_dir

    def published_list(self, task: str, what: str) -> Path:
        """The file of the list; raises UserError without one."""
        if self.list_file is None:
            raise UserError(f"--task={task} needs --list: {what}")
        if not self.list_file.is_file():
            raise UserError(f"--list={self.list_file}: no such file")
        return self.list_file

    def run_dataset(self, task: str) -> Path:
        """The dataset of the run; raises UserError without one."""
        if self.dataset is None:
            raise UserError(f"--task={task} needs the dataset of the run: give it as --dataset")
        return self.dataset


@dataclasses.dataclass(frozen=True)
class ListedTask:
    """A task whose items are files of a corpus.

    Attributes:
        name: of the flag `--task`.
        source: where its protocol is from.
        rule: how its items are chosen, in a line.
        modes: by family of the model, those that render the items, see `synthesis.requests.MODES`.
        choose: makes the list.
        wer: recipes of its source, the main one first; those at hand are scored.
        published: how many items the source has, where that is known.
        given_seconds: of `continuation`, how much of the source is given.
    """

    name: str
    source: str
    rule: str
    modes: dict[str, tuple[str, ...]]
    choose: Callable[[Request], ItemList]
    wer: tuple[str, ...] = ()
    published: int | None = None
    given_seconds: float = 3.0


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of lines, each ended by a newline."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def by_hash(names: Iterable[str], seed: int, key: str) -> list[str]:
    """Names in an order that is random but fixed: by a hash of (seed, key, name)."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{key}/{name}".encode()).digest())


def duration(path: Path) -> float:
    """Seconds of a recording, by its header; raises UserError where it cannot be read."""
    try:
        return float(soundfile.info(path).duration)
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"{path}: cannot be read as audio; restore it from the corpus") from error


def checked(items: Sequence[Item], what: str) -> tuple[Item, ...]:
    """Items whose ids can name files.

    Args:
        items: of a list.
        what: the list, for messages.

    Raises:
        UserError: there are none, an id comes twice, or is no name of a file.
    """
    if not items:
        raise UserError(f"{what}: no items")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UserError(f"{what}: the id {item.id!r} comes twice")
        if Path(item.id).name != item.id or item.id.startswith("."):
            raise UserError(f"{what}: the id {item.id!r} is no name of a file")
        seen.add(item.id)
    return tuple(items)


def complete(
    items: Sequence[Item], root: Path, what: str, list_file: Path | None = None
) -> ItemList:
    """The list of items whose recordings are files; raises UserError where some are missing."""
    wanted = {path for item in items for path in (item.source, item.prompt) if path}
    missing = sorted(path for path in wanted if not (root / path).is_file())
    if missing:
        raise UserError(
            f"{what}: {len(missing)} of {len(wanted)} recordings are not in {root}, such as "
            f"{missing[0]}: give the complete corpus as --corpus_dir"
        )
    return ItemList(checked(items, what), root, list_file)


def read_lines(path: Path, separator: str, columns: tuple[int, ...]) -> list[list[str]]:
    """The fields of the lines of a published list; empty lines are left out.

    Raises:
        UserError: the file cannot be read, or a line has another number of columns.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--list={path}: cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split(separator)]
        if len(fields) not in columns:
            raise UserError(
                f"--list={path} line {number}: {len(fields)} columns, expected "
                f"{' or '.join(map(str, columns))} parted by {separator!r}"
            )
        rows.append(fields)
    return rows
