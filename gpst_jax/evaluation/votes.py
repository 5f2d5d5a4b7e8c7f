"""Votes of a blind comparison: what the page saves, and their summary with an interval."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import statistics

NO_PREFERENCE = ""  # as a choice


@dataclass(frozen=True)
class Trial:
    """Two renditions of one item, to be listened to."""

    condition: str
    id: str
    speaker: str


@dataclass(frozen=True)
class Vote:
    """What one listener said of a trial; `choice` is the name of a system, or `NO_PREFERENCE`."""

    trial: Trial
    choice: str
    blind: bool
    listener: str


def comparison_key(systems: Sequence[str], trials: Sequence[Trial]) -> str:
    """Names the trials of two systems: votes of another page are not counted as theirs."""
    named = [list(systems), [[t.condition, t.id] for t in trials]]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]


def read_votes(
    path: str | Path, known: dict[str, tuple[list[str], list[Trial]]]
) -> tuple[str, list[Vote]]:
    """The votes in a file that the page saved, and the key of their comparison.

    Args:
        path: of the file.
        known: the comparisons by key: names of both systems, and trials.

    Raises:
        UserError: the file cannot be read, is of another comparison, or names what there is not.
    """
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        key, listener, entries = saved["key"], str(saved.get("listener") or path), saved["votes"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: has no 'key' and 'votes', as a page of experiments.compare saves them"
        ) from None
    if not isinstance(entries, list):
        raise UserError(f"{path}: 'votes' is no list, as a page of experiments.compare saves it")
    if key not in known:
        raise UserError(
            f"{path}: its key is {key!r}, of another comparison (other systems, items or --listen)"
        )
    systems, trials = known[key]
    by_id = {(trial.condition, trial.id): trial for trial in trials}
    votes: dict[tuple[str, str], Vote] = {}
    for number, entry in enumerate(entries):
        where = f"{path}: votes[{number}]"
        try:
            place = entry["condition"], entry["id"]
            choice, blind = entry["choice"], bool(entry["blind"])
        except (KeyError, TypeError):
            raise UserError(f"{where}: needs condition, id, choice and blind") from None
        if place not in by_id:
            raise UserError(f"{where}: the page has no item {place[1]!r} of {place[0]!r}")
        if place in votes:
            raise UserError(f"{where}: item {place[1]!r} of {place[0]!r} is voted on twice")
        if choice not in (*systems, NO_PREFERENCE):
            raise UserError(f"{where}: choice {choice!r} is not one of {', '.join(systems)}")
        votes[place] = Vote(by_id[place], choice, blind, listener)
    return key, list(votes.values())


def summarise(votes: Sequence[Vote], system: str, *, resamples: int, seed: int) -> dict[str, Any]:
    """How often a system was preferred, with a 95 % interval.

    No preference counts half. The interval is over listeners where there are five or more, else
    over speakers where five or more are known, else over votes. Votes given with names in sight are
    counted (`not_blind`) and left out.

    Returns:
        A row: value, ci95, n, interval; wins, losses and ties of `system`; and `p`, two-sided, of
        the sign test of wins against losses.
    """
    counted = [vote for vote in votes if vote.blind]
    apart = {
        "not_blind": len(votes) - len(counted),
        "listeners": len({v.listener for v in counted}),
    }
    if not counted:
        return statistics.not_available("no blind votes") | apart
    wins = sum(vote.choice == system for vote in counted)
    ties = sum(vote.choice == NO_PREFERENCE for vote in counted)
    losses = len(counted) - wins - ties
    points = [
        0.5 if vote.choice == NO_PREFERENCE else float(vote.choice == system) for vote in counted
    ]
    listeners = statistics.usable([vote.listener for vote in counted])
    speakers = statistics.usable([vote.trial.speaker for vote in counted])
    clusters = listeners or speakers
    if ties or 0 < wins < len(counted):
        estimate = statistics.mean(points, clusters=clusters, resamples=resamples, seed=seed)
    else:  # resamples of equal votes have no width
        estimate = statistics.proportion([p == 1 for p in points], clusters=clusters)
    row = statistics.row(estimate, len(counted))
    row["ci95"] = row["ci95"] and [max(0.0, row["ci95"][0]), min(1.0, row["ci95"][1])]
    if listeners:
        row["interval"]["over"] = "listeners"
    p = float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    counts = {"wins": wins, "losses": losses, "ties": ties}
    return row | counts | {"p": p, "p_method": "sign test"} | apart
