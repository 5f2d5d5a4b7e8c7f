"""Whether speech that was made before is what would be made now: fingerprints of requests."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.runtime.contents import digest
from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints.checksums import checksums
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.synthesis.requests import SpeechRequest


def fingerprints(
    requests: Sequence[SpeechRequest], recipe: dict[str, Any], models: Sequence[Loaded]
) -> dict[str, str]:
    """A digest of all that the speech of each request depends on, by id.

    Args:
        requests: what is wanted.
        recipe: of the synthesizer, see `Synthesizer.recipe`.
        models: whose parameters are sampled from.

    Raises:
        UserError: a recording cannot be read.
    """
    read = functools.cache(lambda path: digest(path.read_bytes()))
    shared = [recipe, [checksums(model.params) for model in models]]
    found = {}
    for request in requests:
        own = [request.mode, request.text, request.seconds, request.seed]
        for name in ("source", "prompt"):
            path: Path | None = getattr(request, name)
            try:
                own.append(None if path is None else read(path))
            except OSError as error:
                raise UserError(
                    f"{request.name(name)}={path}: cannot be read: {error.strerror}"
                ) from error
        found[request.id] = digest(json.dumps([*shared, *own], sort_keys=True).encode())
    return found
