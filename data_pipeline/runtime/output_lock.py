"""One run per output directory: `run.json` describes it, and a claim keeps other processes out."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.runtime import claim
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json

RUN_FILE = "run.json"


@contextmanager
def claimed(output: Path, description: dict[str, Any]) -> Iterator[None]:
    """Claims an output directory for one run, for as long as the context lasts: see `claim`.

    Args:
        output: created if missing; otherwise empty, or of a run with an equal description.
        description: JSON, everything that determines the output. `inputs` (a count) and
            `inputs_sha256` stand for the recordings.

    Raises:
        UserError: the directory cannot be written, holds anything else, or is held by another live
            process.
    """
    description = json.loads(json.dumps(description))
    with claim.claimed(output):
        _describe(output, description)
        yield


def _describe(output: Path, description: dict[str, Any]) -> None:
    path = output / RUN_FILE
    try:
        if path.exists():
            _compare(output, json.loads(path.read_text(encoding="utf-8")), description)
        elif any(not name.startswith(".") for name in os.listdir(output)):
            raise UserError(
                f"{output} is not empty, and not the output of a run: choose another directory"
            )
        else:
            write_json(path, description)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is corrupt ({error}): delete {output}, or choose another"
        ) from error
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}") from error


def remove_leftovers(output: Path) -> None:
    """Removes partial files of killed runs; only for the process that has claimed `output`.

    Files get their final names when they are complete, so only temporary files are partial: those
    of `files.write_text`, of TFDS and of the length index.
    """
    for directory in (output, output / "length_index"):
        for pattern in (".*.tmp", "incomplete.*"):
            for path in directory.glob(pattern):
                path.unlink(missing_ok=True)


def _compare(output: Path, stored: dict[str, Any], current: dict[str, Any]) -> None:
    """Raises UserError if the directory belongs to a run with another description."""
    names = [name for name in {**stored, **current} if stored.get(name) != current.get(name)]
    if not names:
        return
    if names == ["inputs_sha256"] or set(names) == {"inputs", "inputs_sha256"}:
        what = (
            f"the recordings changed ({stored.get('inputs')} inputs then, {current['inputs']} now)"
        )
    else:
        shown = [name for name in names if name not in ("inputs", "inputs_sha256")]
        what = "; ".join(f"{n} was {stored.get(n)!r}, is {current.get(n)!r}" for n in shown)
    raise UserError(
        f"{output} holds another run: {what}. Choose another --output, or delete that directory"
    )
