"""Scores that are kept between runs, in an append-only file of JSON lines.

Two kinds of lines: the score of a token sequence under a model, and the token sequence that a
recording of some content is encoded to. Both are named by digests, so that nothing is taken for
something else. A line cut short by an interruption is computed again.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.likelihood.scores import Score


class ScoreCache:
    """The scores of one model.

    Args:
        path: the file, which may hold scores of other models too; None: nothing is kept.
        model: fingerprint of the model.
        encoder: what the tokens of a recording depend on, see `RecordingEncoder`.

    Raises:
        UserError: the file cannot be read or written.
    """

    def __init__(self, path: str | Path | None, model: str, encoder: str):
        self._path = None if path is None else Path(path)
        self._model, self._encoder = model, encoder
        self._scores: dict[str, Score] = {}
        self._recordings: dict[str, tuple[str, float]] = {}
        for line in self._lines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self._take(json.loads(line))

    def score(self, tokens: str) -> Score | None:
        """The score of the sequence with this digest."""
        return self._scores.get(tokens)

    def put_scores(self, scores: dict[str, Score]) -> None:
        """Keeps scores by the digests of their sequences."""
        self._scores |= scores
        self._append(
            [
                {
                    "model": self._model,
                    "tokens": tokens,
                    "nats": dict(score.nats),
                    "counts": dict(score.tokens),
                }
                for tokens, score in scores.items()
            ]
        )

    def recording(self, sha256: str) -> tuple[str, float] | None:
        """Digest of the sequence of a recording of this content, and its seconds."""
        return self._recordings.get(sha256)

    def put_recordings(self, recordings: dict[str, tuple[str, float]]) -> None:
        """Keeps digest and seconds by the content of recordings."""
        self._recordings |= recordings
        self._append(
            [
                {
                    "model": self._model,
                    "encoder": self._encoder,
                    "sha256": sha256,
                    "tokens": tokens,
                    "seconds": seconds,
                }
                for sha256, (tokens, seconds) in recordings.items()
            ]
        )

    def _lines(self) -> list[str]:
        if self._path is None or not self._path.exists():
            return []
        try:
            return self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self._path}: cannot be read ({error}): delete it") from error

    def _take(self, entry: dict[str, Any]) -> None:
        if entry["model"] != self._model:
            return
        if "sha256" not in entry:
            self._scores[entry["tokens"]] = Score(dict(entry["nats"]), dict(entry["counts"]))
        elif entry["encoder"] == self._encoder:
            self._recordings[entry["sha256"]] = (entry["tokens"], float(entry["seconds"]))

    def _append(self, entries: list[dict[str, Any]]) -> None:
        if self._path is None or not entries:
            return
        # A leading newline separates new lines from one that was cut short.
        text = "".join(f"\n{json.dumps(entry)}" for entry in entries)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror}") from error
