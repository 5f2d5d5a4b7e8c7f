"""One output directory, one run: `run.json` says which, and a lock keeps a second process out."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json

RUN_FILE = "run.json"


@contextmanager
def claimed(output: Path, description: dict[str, Any]) -> Iterator[None]:
    """Makes a directory this run's own, for as long as the context lasts.

    Args:
        output: made where it does not exist; otherwise empty, or of a run described alike.
        description: JSON, all that decides what the run writes. `inputs` and `inputs_sha256` stand
            for the recordings.

    Raises:
        UserError: it cannot be written, holds something else, or another process works on it.
    """
    description = json.loads(json.dumps(description))
    path = output / RUN_FILE
    try:
        output.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _compare(output, json.loads(path.read_text(encoding="utf-8")), description)
        elif any(not name.startswith(".") for name in os.listdir(output)):
            raise UserError(f"{output} is not empty and holds no tokenised corpus: name another")
        else:
            write_json(path, description)
        file = path.open("r+b")
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}): delete {output} or name another") from error
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is writing {output}: wait for it to end") from error
        yield


def remove_leftovers(output: Path) -> None:
    """Removes what killed runs left half written; only for the process that claimed `output`.

    Finished files have their final names: these are temporary ones, of `cli.write_text`, of TFDS
    and of the length index.
    """
    for directory in (output, output / "length_index"):
        for pattern in (".*.tmp", "incomplete.*"):
            for path in directory.glob(pattern):
                path.unlink(missing_ok=True)


def _compare(output: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuses to mix two runs in one directory."""
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if not names:
        return
    if names == ["inputs_sha256"] or set(names) == {"inputs", "inputs_sha256"}:
        what = f"the recordings changed ({there.get('inputs')} inputs then, {here['inputs']} now)"
    else:
        shown = [name for name in names if name not in ("inputs", "inputs_sha256")]
        what = "; ".join(f"{n} was {there.get(n)!r}, is {here.get(n)!r}" for n in shown)
    raise UserError(
        f"{output} holds another run: {what}. Choose another --output, or delete that directory"
    )
