"""Compares systems: paired differences, blind listening, and lists for other scorers.

    python -m experiments.compare --results=A.json,B.json --items=A.jsonl,B.jsonl \
        --samples=DIR_A,DIR_B --output=DIR [--names=A,B] [--votes=VOTES.json]

Results and items are what `experiments.evaluate` writes with `--json_out` and `--items_out`. The
first system is the base of the others. Runs of equal names are one system with several seeds, which
are then a level of their own in intervals. DIR gets `comparison.json`, the page `comparison.html`
with `comparison.md` beside it, and in `versa` lists of sound by system and condition. On the page
names are hidden until a vote is given; the votes that it saves are counted by `--votes`. Exit
code 3: sound is missing.
"""

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from gpst_jax.evaluation import versa, votes
from gpst_jax.evaluation.metrics import statistics
from gpst_jax.evaluation.report.comparison import Pair, choose_trials, render_comparison
from gpst_jax.evaluation.systems import System, differences, load_systems

_RESULTS = flags.DEFINE_list("results", None, "Results of each run, as JSON files.", required=True)
_ITEMS = flags.DEFINE_list("items", [], "Their items, as JSON lines, in the same order.")
_SAMPLES = flags.DEFINE_list("samples", [], "Their directories of samples, to listen to.")
_NAMES = flags.DEFINE_list("names", [], "Their names; equal ones are seeds of one system.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory of what is written.", required=True)
_VOTES = flags.DEFINE_list("votes", [], "Votes that the page saved, of one listener or more.")
_LISTEN = flags.DEFINE_integer("listen", 20, "Items with players for each two systems.", 0)
_TITLE = flags.DEFINE_string("title", "Systems compared", "Title of the page.")
_RESAMPLES = flags.DEFINE_integer("resamples", statistics.RESAMPLES, "Bootstrap resamples.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the choice of items and of the bootstrap.", 0)


def main(argv: list[str]) -> int:
    """Compares, and writes what the module says."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; options start with --")
    if _VOTES.value and not _SAMPLES.value:
        raise UserError("--votes: are of a page with players: give the same --samples")
    systems = load_systems(_RESULTS.value, _ITEMS.value, _SAMPLES.value, _NAMES.value)
    options = {"resamples": _RESAMPLES.value, "seed": _SEED.value}
    base, *others = systems
    pairs = [
        Pair(
            other,
            base,
            differences(other, base, **options),
            choose_trials(other, base, _LISTEN.value, _SEED.value) if _SAMPLES.value else [],
        )
        for other in others
    ]
    if _VOTES.value:
        pairs = _with_votes(pairs, options)
    output = Path(_OUTPUT.value)
    result = _result(systems, pairs) | {"settings": options | {"listen": _LISTEN.value}}
    write_json(output / "comparison.json", result)
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    render_comparison(pairs, output / "comparison.html", _TITLE.value)
    missing = sum(_write_lists(system, output / "versa") for system in systems)
    print((output / "comparison.md").read_text(encoding="utf-8"))
    print(f"Numbers: {output / 'comparison.json'}\nListen:  {output / 'comparison.html'}")
    if missing:
        print(f"{missing} samples have no sound: named in missing.txt under {output / 'versa'}")
    return exit_codes.PARTIAL if missing else exit_codes.OK


def _with_votes(pairs: list[Pair], options: dict[str, int]) -> list[Pair]:
    """The pairs with a summary of the votes given on each."""
    known = {pair.key: ([pair.base.name, pair.system.name], list(pair.trials)) for pair in pairs}
    given: dict[str, list[votes.Vote]] = {key: [] for key in known}
    for path in _VOTES.value:
        key, found = votes.read_votes(path, known)
        given[key] += found
    return [
        dataclasses.replace(
            pair, votes=votes.summarise(given[pair.key], pair.system.name, **options)
        )
        for pair in pairs
    ]


def _result(systems: list[System], pairs: list[Pair]) -> dict[str, Any]:
    return {
        "systems": {system.name: [run.path for run in system.runs] for system in systems},
        "differences": {pair.name: pair.differences for pair in pairs},
        "trials": {
            pair.name: {"key": pair.key, "items": [[t.condition, t.id] for t in pair.trials]}
            for pair in pairs
        },
        "votes": {pair.name: pair.votes for pair in pairs if pair.votes},
    }


def _write_lists(system: System, directory: Path) -> int:
    """Lists of every condition of every run; returns how many samples have no sound."""
    missing = 0
    for number, run in enumerate(system.runs):
        name = system.name if len(system.runs) == 1 else f"{system.name}-{number}"
        name = name.replace("/", "_")
        for condition, samples in run.samples.items():
            missing += len(versa.write_lists(directory / name / condition, samples))
    return missing


if __name__ == "__main__":
    cli.run(main)
