"""A loaded model that scores token sequences and recordings; start reading here."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.audio.errors import AudioError
from data_pipeline.datasets.kinds import parse_spec
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.progress import progress
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.config import GPSTConfig, SemanticLMConfig
from gpst_jax.evaluation.likelihood.cache import ScoreCache
from gpst_jax.evaluation.likelihood.files import FileScore
from gpst_jax.evaluation.likelihood.gpst import GPSTScorer
from gpst_jax.evaluation.likelihood.language_model import LanguageModelScorer
from gpst_jax.evaluation.likelihood.recordings import Recording, RecordingEncoder
from gpst_jax.evaluation.likelihood.scorer import Scorer
from gpst_jax.evaluation.likelihood.scores import Failure, Score
from gpst_jax.samples.manifest import content_hash

LONGEST_SECONDS = 60.0
_BLOCK = 256  # recordings whose scores are written at once


class Scoring:
    """A model with its tokenizers and the scores that are kept.

    Attributes:
        scorer: the model.
        fingerprint: of the model, for results.
        streams: names of its streams, see `Scorer`.

    Args:
        scorer: the model.
        encoder: its tokenizers.
        cache: file of scores, see `ScoreCache`.
    """

    def __init__(
        self, scorer: Scorer[Any], encoder: RecordingEncoder, cache: str | Path | None = None
    ):
        self.scorer, self._encoder = scorer, encoder
        self.fingerprint, self.streams = scorer.fingerprint, scorer.streams
        self._cache = ScoreCache(cache, scorer.fingerprint, encoder.key)

    def items(self, items: Sequence[Any], what: str = "") -> list[Score | Failure]:
        """Scores token sequences, equal ones once.

        Args:
            items: units (S,) and codes (Q, T) for GPST; ids (n,) and loss mask (n,) for the
                language model.
            what: name of the job for its progress; empty: none is shown.

        Returns:
            A score each, or why there is none.
        """
        digests = [self.scorer.digest(item) for item in items]
        found: dict[str, Score | Failure] = {}
        todo: dict[str, Any] = {}
        for digest, item in zip(digests, items, strict=True):
            if digest in found or digest in todo:
                continue
            if kept := self._cache.score(digest):
                found[digest] = kept
            elif reason := self.scorer.refusal(item):
                found[digest] = Failure(reason)
            else:
                todo[digest] = item
        if what:
            with progress(what, len(todo)) as advance:
                found |= self._compute(todo, advance)
        else:
            found |= self._compute(todo, lambda count: None)
        return [found[digest] for digest in digests]

    def files(self, paths: Sequence[Path]) -> list[FileScore]:
        """Scores recordings; one that cannot be scored is a row that says why.

        Args:
            paths: of recordings of any format and sample rate, with repeats.

        Returns:
            One row for each path, in order.

        Raises:
            UserError: a tokenizer is missing, or is not the one that the model was trained with.
        """
        unique = list(dict.fromkeys(paths))
        found: dict[Path, FileScore] = {}
        with progress("log-likelihoods", len(unique)) as advance:
            for start in range(0, len(unique), _BLOCK):
                block = unique[start : start + _BLOCK]
                found |= self._block(block)
                advance(len(block))
        return [found[path] for path in paths]

    def item(self, recording: Recording) -> Any:
        """The token sequence of a recording; raises ValueError where it has none."""
        if isinstance(self.scorer, LanguageModelScorer):
            return self.scorer.sequence(recording.units)
        return recording.units, recording.codes

    def _compute(self, todo: dict[str, Any], advance: Callable[[int], None]) -> dict[str, Score]:
        digests = list(todo)
        computed: dict[str, Score] = {}
        batch: dict[str, Score] = {}
        for place, score in self.scorer.score(list(todo.values())):
            batch[digests[place]] = score
            if len(batch) == _BLOCK:
                self._cache.put_scores(batch)
                computed |= batch
                batch = {}
            advance(1)
        self._cache.put_scores(batch)
        return computed | batch

    def _block(self, paths: Sequence[Path]) -> dict[Path, FileScore]:
        rows: dict[Path, FileScore] = {}
        todo: dict[Path, tuple[str, float, Any]] = {}
        for path in paths:
            sha256 = content_hash(path)
            kept = None if sha256 is None else self._cache.recording(sha256)
            score = None if kept is None else self._cache.score(kept[0])
            if sha256 is None:
                reason = "cannot be read" if path.exists() else "no such file"
                rows[path] = FileScore(path, failure=reason)
            elif kept is not None and score is not None:
                rows[path] = FileScore(path, sha256, kept[1], score)
            else:
                try:
                    recording = self._encoder.encode(path)
                    todo[path] = (sha256, recording.seconds, self.item(recording))
                except AudioError as error:
                    rows[path] = FileScore(path, sha256, failure=error.reason)
                except ValueError as error:  # no units
                    rows[path] = FileScore(path, sha256, failure=str(error))
        known: dict[str, tuple[str, float]] = {}
        results = self.items([item for *_, item in todo.values()])
        for (path, (sha256, seconds, item)), result in zip(todo.items(), results, strict=True):
            if isinstance(result, Failure):
                rows[path] = FileScore(path, sha256, seconds, failure=result.reason)
            else:
                known[sha256] = (self.scorer.digest(item), seconds)
                rows[path] = FileScore(path, sha256, seconds, result)
        self._cache.put_recordings(known)
        return rows


def open_scoring(
    loaded: Loaded,
    directory: str | Path,
    *,
    cache: str | Path | None = None,
    longest_seconds: float = LONGEST_SECONDS,
) -> Scoring:
    """Makes a loaded model ready to score.

    Args:
        loaded: GPST, or the semantic language model.
        directory: that the paths of its tokenizers are relative to.
        cache: append-only file of scores: what it holds is not computed again. None: none.
        longest_seconds: of a recording.

    Raises:
        UserError: the model is of another family, or the cache cannot be read.
    """
    spec = parse_spec(loaded.dataset, "the checkpoint")
    encoder = RecordingEncoder(directory, spec, longest_seconds)
    if isinstance(loaded.config.model, GPSTConfig):
        return Scoring(GPSTScorer(loaded), encoder, cache)
    if isinstance(loaded.config.model, SemanticLMConfig):
        return Scoring(LanguageModelScorer(loaded, directory), encoder, cache)
    raise UserError(
        f"a model of family {loaded.config.model.family!r} gives no likelihoods: give a run of "
        "GPST or of the semantic language model"
    )
