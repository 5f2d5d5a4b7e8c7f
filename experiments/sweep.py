"""Trains every run of a grid over fields of a configuration, and compares them in one table.

    python -m experiments.sweep --config=FILE --workdir=DIR --config.data.path=DATASET \
        --grid optimizer.learning_rate=1e-4,3e-4 --grid data.seed=0,1 [--metric=eval/loss]

Every combination of the values is a run of `experiments.pretrain` in a process of its own, one
after another, with the workdir `DIR/NAME` and the log `DIR/NAME.log`. The same command continues
after any end: finished runs are not repeated, an interrupted one resumes from its newest
checkpoint. Other values or fields in `--grid` add runs and keep the old ones; another base is
refused. What stands after `--` goes to every run, such as `-- --trackers=wandb`.

`--launch=print` prints the commands instead, with `--env=FILE` those that start each run with
`tpu_scripts/up.sh`; the next call collects their results, where DIR is on storage that all share.
The table is printed, and written to `DIR/table.json`. Exit codes: 0 all runs have finished; 3 some
failed, the table names them; 75 interrupted.
"""

import dataclasses
import json
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.runtime import claim, cli, exit_codes, flag_rules
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.progress import format_duration
from experiments import config_flags
from experiments.child_programs import held, last_words
from experiments.child_programs import run as _run
from experiments.common import load_config
from gpst_jax.checkpoints.storage import check_name
from gpst_jax.config import ConfigError, RunConfig
from gpst_jax.training import sweeps
from gpst_jax.training.sweeps import FAILED, FINISHED, UNFINISHED, Row, SweepRun

_CONFIG = config_flags.DEFINE_config(
    "config", None, "Python file or module whose get_config() returns the base.", required=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of all runs and of the table; made when missing.", required=True
)
_GRID = flags.DEFINE_multi_string(
    "grid", [], "A field and its values, section.field=VALUE,VALUE; may be given several times."
)
_METRIC = flags.DEFINE_string(
    "metric", "eval/loss", "Runs are ordered by the last value of this metric of metrics.jsonl."
)
_BEST = flags.DEFINE_enum(
    "best", "lowest", ["lowest", "highest"], "Which value of the metric is best."
)
_LAUNCH = flags.DEFINE_enum(
    "launch", "run", ["run", "print"], "Train here, or print the commands of unfinished runs."
)
_ENV = flags.DEFINE_string(
    "env", None, "With --launch=print: settings file of tpu_scripts, for commands that use it."
)

_STATE, _TABLE, _RESULT = "sweep.json", "table.json", "result.json"


class Sweep:
    """What a directory of a sweep holds; this process has claimed it.

    Args:
        workdir: the directory.
        base: the configuration without the grid.

    Raises:
        UserError: it holds a sweep of another base.
    """

    def __init__(self, workdir: Path, base: RunConfig):
        self._workdir, self._path = workdir, workdir / _STATE
        self._state: dict[str, Any] = {"base": base.to_dict(), "runs": {}}
        if self._path.exists():
            self._state = _read(self._path)
            sweeps.check_base(self._state["base"], base, str(workdir))

    def add(self, runs: Sequence[SweepRun]) -> None:
        """Remembers runs, beside those that are known."""
        for run in runs:
            known = {"fields": run.fields, "steps": run.config.train.steps}
            self._state["runs"].setdefault(run.name, known)
        write_json(self._path, self._state)

    def workdir(self, name: str) -> Path:
        """The workdir of a run."""
        return self._workdir / name

    def log(self, name: str) -> Path:
        """The file of all that a run prints."""
        return self._workdir / f"{name}.log"

    def result_path(self, name: str) -> Path:
        """Where pretrain writes the result of a run."""
        return self.workdir(name) / _RESULT

    def result(self, name: str) -> dict[str, Any] | None:
        """What pretrain has written; None before all steps are done."""
        path = self.result_path(name)
        result = _read(path) if path.exists() else {}
        steps = self._state["runs"][name]["steps"]
        return result if result.get("steps", -1) >= steps else None

    def ended(self, name: str, code: int, message: str) -> None:
        """Remembers how a run has ended."""
        self._state["runs"][name] |= {"exit_code": code, "message": message}
        write_json(self._path, self._state)

    def is_done(self, name: str) -> bool:
        """Whether it has finished, or diverged and would diverge again."""
        diverged = self._state["runs"][name].get("exit_code") == exit_codes.DIVERGED
        return self.result(name) is not None or (diverged and self.workdir(name).is_dir())

    def rows(self, metric: str) -> list[Row]:
        """All runs that are known, with the last value of a metric."""
        return [self._row(name, metric) for name in self._state["runs"]]

    def _row(self, name: str, metric: str) -> Row:
        known, result = self._state["runs"][name], self.result(name)
        failed = known.get("exit_code") not in (None, exit_codes.OK, exit_codes.INTERRUPTED)
        status = FINISHED if result else FAILED if failed else UNFINISHED
        return Row(
            name=name,
            fields=known["fields"],
            status=status,
            value=result["final"].get(metric) if result else None,
            steps=result["steps"] if result else None,
            message=known["message"] if status == FAILED else "",
            workdir=str(self.workdir(name)),
        )

    def metrics(self) -> list[str]:
        """The metrics of the finished runs."""
        results = [self.result(name) for name in self._state["runs"]]
        return sorted({name for result in results if result for name in result["final"]})


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    workdir, printing = Path(_WORKDIR.value), _LAUNCH.value == "print"
    if not printing:
        flag_rules.refuse(("env",), "is given with --launch=print only")
    check_name(workdir)
    base, grid = _CONFIG.load(), sweeps.parse_grid(_GRID.value)
    for field in grid:
        _CONFIG.refuse(field, "is varied by --grid")
    if not (printing or base.data.path or "data.path" in grid):
        raise UserError("config field data.path: empty; give --config.data.path=DATASET")
    try:
        runs = sweeps.make_runs(base, grid)
        file = load_config(_CONFIG.value)
        for run in runs:  # what pretrain will do
            file.override(_assignments(run))
    except ConfigError as error:
        raise UserError(f"--grid: {error}") from error
    with claim.claimed(workdir):
        sweep = Sweep(workdir, base)
        sweep.add(runs)
        if printing:
            for run in runs:
                if not sweep.is_done(run.name):
                    print(shlex.join(_printed(run, sweep, argv[1:])))
            code = exit_codes.OK
        else:
            code = _train(runs, sweep, argv[1:])
        _report(sweep, "# " if printing else "")
    return code


def _train(runs: Sequence[SweepRun], sweep: Sweep, rest: list[str]) -> int:
    """Trains the runs that are not done; returns the exit code of the sweep."""
    for number, run in enumerate(runs, 1):
        if sweep.is_done(run.name):
            continue
        log = sweep.log(run.name)
        with held(log) as own:
            if sweep.is_done(run.name):  # by the run that was waited for
                continue
            print(f"[{number}/{len(runs)}] {run.name}, log: {log}", flush=True)
            started = time.monotonic()
            command = [sys.executable, "-m", "experiments.pretrain"]
            code, stopped = _run([*command, *_arguments(run, sweep, rest)], own)
        sweep.ended(run.name, code, f"exit code {code}: {last_words(log)}")
        seconds = format_duration(time.monotonic() - started)
        print(f"[{number}/{len(runs)}] exit code {code} after {seconds}", flush=True)
        if stopped or code == exit_codes.INTERRUPTED:
            print("interrupted: the same command continues", flush=True)
            return exit_codes.INTERRUPTED
    finished = all(sweep.result(run.name) is not None for run in runs)
    return exit_codes.OK if finished else exit_codes.PARTIAL


def _arguments(run: SweepRun, sweep: Sweep, rest: Sequence[str]) -> list[str]:
    """The flags of pretrain for a run."""
    return [
        f"--config={_CONFIG.value}",
        f"--workdir={sweep.workdir(run.name)}",
        f"--json_out={sweep.result_path(run.name)}",
        *config_flags.as_flags(_assignments(run)),
        *rest,
    ]


def _assignments(run: SweepRun) -> list[str]:
    """Base and grid: they name no field twice, see `main`."""
    base = [text for text in _CONFIG.overrides if not text.startswith("name=")]
    varied = [f"{name}={sweeps.as_text(value)}" for name, value in run.fields.items()]
    return [*base, *varied, f"name={run.config.name}"]


def _printed(run: SweepRun, sweep: Sweep, rest: Sequence[str]) -> list[str]:
    """The command of a run, by hand or on a pod."""
    flags_of_run = _arguments(run, sweep, rest)
    if not _ENV.value:
        return ["python", "-m", "experiments.pretrain", *flags_of_run]
    # Resources of a cloud have names of at most 28 small letters, digits and hyphens.
    head, _, digest = run.config.name.rpartition("-")
    name = re.sub(r"[^a-z0-9]+", "-", head.lower())[:19].strip("-") or "sweep"
    config, workdir, *others = flags_of_run
    data = [f"--data={run.config.data.path}"] if run.config.data.path else []
    others = [word for word in others if not word.startswith("--config.data.path=")]
    return [
        *("tpu_scripts/up.sh", f"--env={_ENV.value}", f"--name={name}-{digest}"),
        *(config, workdir, *data, "--", *others),
    ]


def _report(sweep: Sweep, prefix: str) -> None:
    """Prints the table and writes it; `prefix` stands before each line."""
    rows = sweeps.sort_rows(sweep.rows(_METRIC.value), _BEST.value)
    table = {
        "metric": _METRIC.value,
        "best": _BEST.value,
        "runs": [dataclasses.asdict(row) for row in rows],
    }
    write_json(Path(_WORKDIR.value) / _TABLE, table)
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, table)
    for line in sweeps.format_table(rows, _METRIC.value).splitlines():
        print(prefix + line)
    known = sweep.metrics()
    if known and _METRIC.value not in known:
        raise UserError(
            f"--metric={_METRIC.value}: no finished run has it; they have {', '.join(known)}"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; restore it, or remove it") from error


if __name__ == "__main__":
    cli.run(main)
