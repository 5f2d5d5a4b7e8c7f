"""What a model says of one utterance: negative log-likelihoods by stream."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

# Streams of semantic units: of GPST, and of the language model.
UNIT_STREAMS = ("semantic", "units")
UNITS, ALL = "units", "all"
OVER = (UNITS, ALL)  # what a log-likelihood is taken over


class Total(NamedTuple):
    """A negative log-likelihood, in nats, and the number of predictions in it."""

    nats: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Mean log-likelihood per token, in nats."""
        return -self.nats / self.tokens

    def to_json(self) -> dict[str, Any]:
        """The log-likelihood as JSON values."""
        per_token = self.per_token if self.tokens else None
        return {"log_likelihood": -self.nats, "tokens": self.tokens, "per_token": per_token}


@dataclasses.dataclass(frozen=True)
class Score:
    """The negative log-likelihood of an utterance under a model.

    Attributes:
        nats: by stream, summed over its predictions.
        tokens: by stream, how many these are; the end of a stream is one of them.
    """

    nats: Mapping[str, float]
    tokens: Mapping[str, int]

    def total(self, over: str = ALL) -> Total | None:
        """The sum over the stream of units ("units") or all streams ("all").

        None where the model has no stream of units.
        """
        names = [name for name in self.nats if over == ALL or name in UNIT_STREAMS]
        return self.sum(names) if names else None

    def sum(self, streams: Iterable[str]) -> Total:
        """The sum over the given streams."""
        names = list(streams)
        return Total(
            math.fsum(self.nats[name] for name in names), sum(self.tokens[name] for name in names)
        )

    @classmethod
    def joined(cls, parts: Iterable["Score"]) -> "Score":
        """The score of parts that were scored each on its own."""
        scores = list(parts)
        names = list(scores[0].nats)
        return cls(
            {name: math.fsum(score.nats[name] for score in scores) for name in names},
            {name: sum(score.tokens[name] for score in scores) for name in names},
        )


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why an utterance has no score."""

    reason: str


def bits_per_second(nats: float, seconds: float) -> float:
    """Nats over a duration as bits per second of audio."""
    return nats / math.log(2) / seconds
