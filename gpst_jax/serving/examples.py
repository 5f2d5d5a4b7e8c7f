"""Held-out recordings of a run's corpus, for visitors who have none at hand."""

import dataclasses
import textwrap
from pathlib import Path

import soundfile

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.loading.mixture import dataset_with
from data_pipeline.runtime.errors import UserError
from gpst_jax.samples.items import ItemSet, find_audio

_MIN_SECONDS = 2.0  # enough speech for a prompt
_WIDTH = 32  # characters of a name, which a phone shows
_SPLITS = ("valid", "unseen")


@dataclasses.dataclass(frozen=True)
class Example:
    """A recording.

    Attributes:
        name: what visitors choose it by.
        path: of its wav file.
        text: its transcript, if there is one.
    """

    name: str
    path: Path
    text: str | None


def find_examples(dataset: str | Path, folder: Path, count: int = 6) -> list[Example]:
    """Writes held-out recordings of a dataset, of its speakers in turn, to wav files.

    Args:
        dataset: directory of the dataset, or its mixture.
        folder: directory for the files.
        count: most examples.

    Raises:
        UserError: the recordings are not where they were when the dataset was made.
    """
    directory = dataset_with(dataset, *_SPLITS)
    spec = DatasetSpec.load(directory)
    split = next(split for split in _SPLITS if split in spec.splits)
    root = find_audio(directory, [split], None)
    items = ItemSet(directory, spec, split, root, min_seconds=_MIN_SECONDS)
    # The first item of a speaker may join recordings without a transcript; any will do here.
    chosen = items.choose(count) or items.all[:count]
    examples = []
    for number, item in enumerate(chosen, 1):
        path = folder / f"example-{number}.wav"
        try:
            soundfile.write(path, items.audio(item.segments), spec.sample_rate)
        except (OSError, soundfile.LibsndfileError) as error:
            raise UserError(f"{path}: cannot be written: {error}") from error
        words = f": {item.text}" if item.text else f", {item.seconds:.1f} s"
        name = textwrap.shorten(f"{number}. {item.speaker}{words}", _WIDTH, placeholder=" …")
        examples.append(Example(name, path, item.text))
    return examples
