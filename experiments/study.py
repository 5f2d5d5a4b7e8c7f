"""Runs a study: its cells one after another, its records, and its page.

    python -m experiments.study --study=experiments/study_files/FILE.py [--tokens=DATASET] \
        [--audio_dir=RECORDINGS] [--run=RUN] [--lm_run=LM_RUN] [--cells=A,B] [--seeds=0,1]
    python -m experiments.study --study=experiments/study_files/FILE.py --render

A study is a Python file whose `get_study()` returns a `gpst_jax.studies.definition.Study`
(docs/studies.md). Each cell is trained and scored by the public programs in --workdir; the record
of a finished one is written at once to `results/NAME/CELL-SEED.json` in --output, and the page
`NAME.md` from the records alone. The same command goes on after any end, here or on another machine
that has the records: no finished cell is repeated, and an unfinished one resumes from its
checkpoint. A record of another configuration is refused.

Exit codes: 0 all that was asked for is recorded; 3 some cells failed, and are named; 75
interrupted.
"""

from pathlib import Path

from absl import flags

from data_pipeline.runtime import claim, cli, exit_codes, flag_rules
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from experiments.common import load_config
from experiments.studies.cells import Failure, Interrupted, Runner
from experiments.studies.files import load_study, shown
from gpst_jax.studies import page
from gpst_jax.studies.definition import INPUTS, Cell, Study
from gpst_jax.studies.records import Results

_STUDY = flags.DEFINE_string("study", None, "File whose get_study() is run.", required=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of runs, samples and logs; default: runs/studies/NAME."
)
_OUTPUT = flags.DEFINE_string("output", "docs/studies", "Folder of the pages and the records.")
_CELLS = flags.DEFINE_list("cells", None, "Only these cells; default: all.")
_SEEDS = flags.DEFINE_list("seeds", None, "Only these seeds; default: those of the study.")
_RENDER = flags.DEFINE_bool("render", False, "Run nothing: write the page of what is recorded.")
_INPUTS = {
    "tokens": flags.DEFINE_string("tokens", None, "Token dataset, where the study needs one."),
    "audio_dir": flags.DEFINE_string("audio_dir", None, "Root of its recordings, likewise."),
    "run": flags.DEFINE_string("run", None, "Finished run that is scored, likewise."),
    "lm_run": flags.DEFINE_string("lm_run", None, "Run of the language model, likewise."),
}


def main(argv: list[str]) -> int:
    """Runs or renders a study; returns the exit code."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; options start with --")
    study = load_study(_STUDY.value)
    output = Path(_OUTPUT.value)
    results = Results(output, study.name)
    if _RENDER.value:
        flag_rules.refuse((*INPUTS, "cells", "seeds", "workdir"), "is for running: --render is not")
        return _render(study, results, output, [])
    unused = tuple(name for name in INPUTS if name not in study.inputs())
    flag_rules.refuse(unused, f"is not used by the study {study.name!r}")
    finished = results.finished(study, load_config)
    todo = [(cell, seed) for cell, seed in _asked(study) if (cell.name, seed) not in finished]
    asked = len(_asked(study))
    print(f"{study.name}: {asked - len(todo)} of {asked} cells and seeds are recorded", flush=True)
    failures: list[Failure] = []
    if todo:
        workdir = Path(_WORKDIR.value or Path("runs/studies") / study.name)
        inputs = _given_inputs(study)
        with claim.claimed(workdir):
            runner = Runner(study, shown(_STUDY.value), workdir, inputs, results)
            results.check_inputs(finished, runner.fingerprints)
            try:
                failures = runner.run(todo)
            except Interrupted:
                _render(study, results, output, [])
                print("interrupted: the same command goes on", flush=True)
                return exit_codes.INTERRUPTED
    return _render(study, results, output, failures)


def _asked(study: Study) -> list[tuple[Cell, int]]:
    """The cells and seeds that the command line asks for: all cells of a seed, then the next."""
    cells = [study.cell(name) for name in _CELLS.value] if _CELLS.value else list(study.cells)
    seeds = list(study.seeds)
    if _SEEDS.value:
        for text in _SEEDS.value:
            if not text.isdigit() or int(text) not in study.seeds:
                known = ", ".join(map(str, study.seeds))
                raise UserError(f"--seeds={text}: study {study.name!r} has {known}")
        seeds = [int(text) for text in _SEEDS.value]
    return [(cell, seed) for seed in seeds for cell in cells]


def _given_inputs(study: Study) -> dict[str, str]:
    """The inputs that the study needs, all of them given."""
    found = {}
    for name in study.inputs():
        value = _INPUTS[name].value
        if not value:
            raise UserError(f"--{name} is missing: the study {study.name!r} needs it")
        if not Path(value).exists():
            raise UserError(f"--{name}={value}: no such file or directory")
        found[name] = str(Path(value).resolve())
    return found


def _render(study: Study, results: Results, output: Path, failures: list[Failure]) -> int:
    """Writes the page; returns the exit code."""
    finished = results.finished(study, load_config)
    written = page.write(study, shown(_STUDY.value), finished, output, load_config)
    for failure in failures:
        print(f"failed: {failure.cell}, seed {failure.seed}: {failure.reason}", flush=True)
    if cli.JSON_OUT.value:
        summary = {
            "page": str(written),
            "recorded": sorted(f"{cell}-{seed}" for cell, seed in finished),
            "failed": {f"{one.cell}-{one.seed}": one.reason for one in failures},
        }
        write_json(cli.JSON_OUT.value, summary)
    print(f"page: {written}")
    return exit_codes.PARTIAL if failures else exit_codes.OK


if __name__ == "__main__":
    cli.run(main)
