"""Whether the recordings of a run still hold what its shards and tokenizers were made from.

Unfinished, a run has that in the reports of its shards, and of its fitted tokenizers; finished, in
`inputs.npz`, for as long as the dataset exists.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.datasets.dataset_json import SPEC_FILE
from data_pipeline.runtime import contents
from data_pipeline.runtime.contents import Content
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.output_lock import RUN_FILE
from data_pipeline.sources import Utterance
from data_pipeline.sources.reading import require_same_contents
from data_pipeline.tokenization.provide_tokenizers import FITTED_CONTENTS
from data_pipeline.tokenization.shard import ShardReport, ShardTask

INPUTS_FILE = "inputs.npz"
_NAMES_AND_SIZES = 1  # version of the description of runs that did not read contents


def comparable(output: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """The description by which a run in `output` is compared, where one of an older version is.

    Raises:
        UserError: that run is unfinished. What its shards were made from is not known, so going on
            might mix two corpora.
    """
    try:
        version = json.loads((output / RUN_FILE).read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return dict(description)  # there is none, or it is refused later
    if version != _NAMES_AND_SIZES:
        return dict(description)
    if not (output / SPEC_FILE).exists():
        raise UserError(
            f"{output} holds an unfinished run of an older version of this program, which did not "
            "store what its recordings held, so that a change would go unnoticed: delete that "
            "directory, or choose another --output"
        )
    return dict(description) | {"version": version}


def check_finished(output: Path, utterances: Sequence[Utterance], root: str) -> None:
    """Compares the recordings of a finished dataset with what they held.

    Raises:
        UserError: the bytes of one are others.
    """
    path = output / INPUTS_FILE
    if not path.exists():
        print(
            f"{output} was written by an older version, which did not store what its recordings "
            "held: only their names and sizes are compared",
            file=sys.stderr,
        )
        return
    stored = contents.load(path)
    if len(stored) != len(utterances):
        raise UserError(f"{path} is of another corpus: restore it, or delete it")
    now = _require(output, utterances, stored)
    if now != stored:  # touched or copied: the next comparison need not read them again
        contents.save(path, now, root)


def check_unfinished(output: Path, tasks: Iterable[ShardTask]) -> dict[str, Content]:
    """Compares the recordings of finished shards and fitted tokenizers with what they held.

    Args:
        output: the dataset directory.
        tasks: all shards.

    Returns:
        What the recordings of finished shards hold now, by id: the same bytes, perhaps touched.

    Raises:
        UserError: the bytes of one are others.
    """
    tasks = list(tasks)
    done: dict[str, Content] = {}
    for task in tasks:
        if task.is_done():
            done |= _of_shard(task)
    stored = _fitted(output) | done
    used = [u for task in tasks for u in task.utterances if u.id in stored]
    now = _require(output, used, [stored[utterance.id] for utterance in used])
    return {u.id: content for u, content in zip(used, now, strict=True) if u.id in done}


def store(
    output: Path,
    utterances: Sequence[Utterance],
    tasks: Iterable[ShardTask],
    known: Mapping[str, Content],
    root: str,
) -> None:
    """Writes `inputs.npz` of a run whose shards are all finished.

    Args:
        output: the dataset directory.
        utterances: of the corpus, in the order of the source.
        tasks: all shards.
        known: what `check_unfinished` returned.
        root: directory that stored paths are relative to.

    Raises:
        UserError: a recording held something else when the tokenizers were fitted on it.
    """
    found: dict[str, Content] = {}
    for task in tasks:
        found |= _of_shard(task)
    found |= known
    fitted = _fitted(output)
    different = [
        u for u in utterances if u.id in fitted and found[u.id].digest != fitted[u.id].digest
    ]
    if different:
        raise UserError(
            f"{output}: {different[0].path} was written again after the tokenizers were fitted on "
            f"it ({len(different)} recordings were). {_remedy(output)}"
        )
    contents.save(output / INPUTS_FILE, [found[u.id] for u in utterances], root)


def audio_root(dataset_dir: str | Path) -> Path | None:
    """The directory that stored paths were relative to when the dataset was written, if known."""
    root = contents.load_root(Path(dataset_dir) / INPUTS_FILE)
    return Path(root) if root else None


def _require(
    output: Path, utterances: Sequence[Utterance], stored: Sequence[Content]
) -> list[Content]:
    return require_same_contents(utterances, stored, f"{output} holds another run", _remedy(output))


def _remedy(output: Path) -> str:
    return f"Choose another --output, or delete {output}"


def _of_shard(task: ShardTask) -> dict[str, Content]:
    texts = ShardReport.load(task.report).contents
    pairs = zip(task.utterances, texts, strict=True)
    return {utterance.id: Content.parse(text) for utterance, text in pairs}


def _fitted(output: Path) -> dict[str, Content]:
    path = output / FITTED_CONTENTS
    if not path.exists():
        return {}
    texts = json.loads(path.read_text(encoding="utf-8"))
    return {name: Content.parse(text) for name, text in texts.items()}
