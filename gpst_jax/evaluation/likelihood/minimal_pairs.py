"""Accuracy on minimal pairs: how often the better alternative has the higher likelihood per token.

The score of an alternative is its mean log-likelihood per token; equal scores count half. It is
taken over the units alone and over all tokens, which can differ much: most tokens are codes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpst_jax.evaluation.likelihood.estimates import Bootstrap, Row, proportion
from gpst_jax.evaluation.likelihood.pairs import Pair
from gpst_jax.evaluation.likelihood.scores import OVER, Failure, Score
from gpst_jax.evaluation.likelihood.scoring import Scoring
from gpst_jax.evaluation.metrics.statistics import RESAMPLES, not_available

Item = dict[str, Any]


def score_pairs(
    scoring: Scoring, pairs: Sequence[Pair], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[dict[str, Any], list[Item]]:
    """Scores pairs of recordings or of token sequences.

    Args:
        scoring: the model.
        pairs: as `read_pairs` or `controls` give them.
        resamples: of the bootstrap, over clusters of pairs where there are any.
        seed: of the bootstrap.

    Returns:
        JSON values: `units` and `all`, each with `accuracy`, `ties` and accuracies `by_group`; and
        `failed` recordings, whose pairs count as wrong. Then an object for each pair, in order.
    """
    outcomes = _outcomes(scoring, pairs)
    items, failed = [], []
    for pair, sides in zip(pairs, outcomes, strict=True):
        reasons = [
            {"id": pair.id, "path": _name(side), "reason": outcome.reason}
            for side, outcome in zip((pair.positive, pair.negative), sides, strict=True)
            if isinstance(outcome, Failure)
        ]
        failed += reasons
        items.append(_item(pair, sides))
    bootstrap = Bootstrap(resamples, seed)
    result: dict[str, Any] = {
        "pairs": len(pairs), "model": scoring.fingerprint, "failed": failed,
    }  # fmt: skip
    for over in OVER:
        result[over] = _part(pairs, [item[over] for item in items], bootstrap)
    return result, items


def _outcomes(
    scoring: Scoring, pairs: Sequence[Pair]
) -> list[tuple[Score | Failure, Score | Failure]]:
    sides = [side for pair in pairs for side in (pair.positive, pair.negative)]
    paths = [side for side in sides if isinstance(side, Path)]
    sequences = [side for side in sides if not isinstance(side, Path)]
    of_paths = iter(scoring.files(paths) if paths else ())
    of_sequences = iter(scoring.items(sequences, "log-likelihoods") if sequences else ())
    found: list[Score | Failure] = []
    for side in sides:
        if not isinstance(side, Path):
            found.append(next(of_sequences))
            continue
        row = next(of_paths)
        found.append(row.score if row.score is not None else Failure(str(row.failure)))
    return list(zip(found[::2], found[1::2], strict=True))


def _item(pair: Pair, sides: tuple[Score | Failure, Score | Failure]) -> Item:
    """A pair with its score over units and over all tokens; None where the model has no units."""
    item: Item = {
        "id": pair.id,
        "group": pair.group,
        "positive": _name(pair.positive),
        "negative": _name(pair.negative),
    }
    for over in OVER:
        per_token = [_per_token(side, over) for side in sides]
        item[f"{over}_per_token"] = per_token
        if any(isinstance(side, Failure) for side in sides):
            item[over] = 0.0
        else:
            item[over] = _preference(*per_token)
    return item


def _preference(positive: float | None, negative: float | None) -> float | None:
    """1 where the better alternative scores higher, 0.5 for a tie; None without scores."""
    if positive is None or negative is None:
        return None
    return 0.5 if positive == negative else float(positive > negative)


def _per_token(side: Score | Failure, over: str) -> float | None:
    if isinstance(side, Failure):
        return None
    total = side.total(over)
    return None if total is None else total.per_token


def _part(
    pairs: Sequence[Pair], values: Sequence[float | None], bootstrap: Bootstrap
) -> dict[str, Any]:
    if None in values:
        return {"accuracy": not_available("the model has no stream of units")}
    groups: dict[str, list[int]] = {}
    for place, pair in enumerate(pairs):
        if pair.group:
            groups.setdefault(pair.group, []).append(place)

    def accuracy(places: Sequence[int]) -> Row:
        kept = [float(values[place] or 0.0) for place in places]
        clusters = [pairs[place].cluster or f"alone {place}" for place in places]
        if len(set(clusters)) == len(clusters):
            return proportion(kept, None, bootstrap)
        row = proportion(kept, clusters, bootstrap)
        return row | {"interval": row["interval"] | {"over": "clusters"}}

    return {
        "accuracy": accuracy(range(len(pairs))),
        "ties": sum(value == 0.5 for value in values),
        "by_group": {name: accuracy(places) for name, places in sorted(groups.items())},
    }


def _name(side: Any) -> str | None:
    """The path of a recording; None for a token sequence."""
    return str(side) if isinstance(side, Path) else None
