"""Does the semantic prior improve quality, or only efficiency? The question of arXiv 2401.13527.

    python -m experiments.studies.flow --tokens=DATASET --audio_dir=DIR --workdir=DIR

Trains flow matching once for each arm, with equal configuration, data and steps: the three chains
(implicit: the prior is centred at the semantic embeddings; plain: the network is conditioned on
them; explicit: it is conditioned on them, and they are added to its output) with noise of the
standard deviation of what is modelled, and the implicit chain with half of that. Each arm then
does voice conversion on the same recordings, with Euler's method and several numbers of function
evaluations. Word error rate, the fraction of samples closer to the target speaker than to the
source, similarity and DNSMOS are reported with 95 % intervals, and so is each arm's difference in
word error rate to the first arm on the same items. The results are `study.json` and `study.md` in
--workdir. Finished parts are kept: an interrupted study resumes when started again.
"""

from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json, write_text
from experiments import config_flags
from experiments.demo_steps import Timings, read_json, read_scores, word_errors
from gpst_jax.config.overrides import field_of
from gpst_jax.evaluation.metrics import statistics
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE

ARMS = {
    "implicit": ("model.chain=implicit", "model.prior_std=1.0"),
    "plain": ("model.chain=plain", "model.prior_std=1.0"),
    "explicit": ("model.chain=explicit", "model.prior_std=1.0"),
    "implicit_half": ("model.chain=implicit", "model.prior_std=0.5"),
}
_MODE = "voice_conversion"
_COLUMNS = (
    "arm",
    "evaluations",
    "WER, %",
    "less that of the first arm, points",
    "closer to target, %",
    "similarity to target",
    "DNSMOS P.808",
)

_TOKENS = flags.DEFINE_string("tokens", None, "Token dataset.", required=True)
_AUDIO_DIR = flags.DEFINE_string("audio_dir", None, "Root of its recordings.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for all outputs.", required=True)
_CONFIG = config_flags.DEFINE_config(
    "config", "experiments/configs/coig_flow_demo.py", "Training configuration of every arm."
)
_ARMS = flags.DEFINE_list("arms", list(ARMS), "Arms to compare; the first is the baseline.")
_EVALUATIONS = flags.DEFINE_list(
    "evaluations", ["1", "2", "4", "8", "16", "32"], "Numbers of function evaluations."
)
_ITEMS = flags.DEFINE_integer("items", 60, "Recordings to convert.", 2)
_TEMPERATURE = flags.DEFINE_float(
    "flow_temperature", 1.0, "Scale of the noise that paths start from.", 0
)


def main(argv: list[str]) -> int:
    """Trains, samples, measures and writes the tables."""
    del argv
    workdir, arms = Path(_WORKDIR.value), _ARMS.value
    unknown = sorted(set(arms) - set(ARMS))
    if unknown:
        raise UserError(f"--arms: unknown {unknown[0]!r}; choose from {', '.join(ARMS)}")
    if not arms or not _EVALUATIONS.value:
        raise UserError("--arms, --evaluations: name at least one of each")
    _CONFIG.refuse("data.path", "give the dataset as --tokens")
    for arm in arms:
        for assignment in ARMS[arm]:
            _CONFIG.refuse(field_of(assignment), "is what the arms differ in")
        _CONFIG.load(*ARMS[arm])
    timings = Timings(workdir / "timings.json")
    rows: list[dict[str, Any]] = []
    base: dict[int, list[dict[str, Any]]] = {}  # scores of the first arm, by evaluations
    for arm in arms:
        trained = _train(timings, workdir, arm)
        for count in map(int, _EVALUATIONS.value):
            results, items = _measure(timings, workdir, arm, count)
            base.setdefault(count, items)
            rows.append(
                {"arm": arm, "evaluations": count}
                | trained
                | _figures(results["modes"][_MODE])
                | _differences(items, base[count])
            )
    codec = results["ceilings"]["codec"]
    study = {"rows": rows, "codec": _figures(codec), "items": _ITEMS.value}
    study |= {"settings": results["settings"], "timings_s": timings.rounded()}
    write_json(workdir / "study.json", study)
    table = _table(rows)
    write_text(workdir / "study.md", table)
    print(f"\n{table}\nNumbers: {workdir / 'study.json'}")
    return 0


def _train(timings: Timings, workdir: Path, arm: str) -> dict[str, Any]:
    run, out = workdir / f"train_{arm}", workdir / f"train_{arm}.json"
    fields = _CONFIG.as_flags(f"data.path={_TOKENS.value}", *ARMS[arm])
    call = ["experiments.pretrain", *fields, f"--workdir={run}", f"--json_out={out}"]
    if not out.exists():
        timings.run(f"train {arm}", call)
    result = read_json(out)
    return {"steps": result["steps"], "parameters": result["parameters"]}


def _measure(
    timings: Timings, workdir: Path, arm: str, count: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Results of an evaluation, and the scores of its items sorted by id."""
    name = f"{arm}_{count}"
    samples, results = workdir / "samples" / name, workdir / "results" / f"{name}.json"
    scores = results.with_suffix(".jsonl")
    if not results.exists():
        call = ["experiments.generate", f"--workdir={workdir / f'train_{arm}'}"]
        call += [f"--dataset={_TOKENS.value}", f"--audio_dir={_AUDIO_DIR.value}"]
        call += [f"--output={samples}", f"--mode={_MODE}", "--solver=euler"]
        call += [f"--flow_steps={count}", f"--flow_temperature={_TEMPERATURE.value}"]
        call += [f"--items={_ITEMS.value}", "--unseen_items=0"]
        timings.run(f"generate {name}", call)
        call = ["experiments.evaluate", f"--samples={samples}", f"--items_out={scores}"]
        call.append(f"--wer={DIGITS_RECIPE}")
        timings.run(f"evaluate {name}", [*call, f"--json_out={results}"])
    return read_json(results), read_scores(scores, _MODE)


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    """The metrics of one condition: value, interval and number of items of each."""
    figures = {}
    for name, values in row.items():
        short = "wer" if name.startswith("wer/") else name.split("/")[0]
        if isinstance(values, dict) and "value" in values:
            figures[short] = {key: values[key] for key in ("value", "ci95", "n")}
    return figures


def _differences(items: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    """Paired difference in word error rate to the baseline."""
    if [item["id"] for item in items] != [item["id"] for item in base]:
        raise UserError("the arms were measured on different items; use a new --workdir")
    estimate = statistics.paired_ratio_difference(*word_errors(items), *word_errors(base))
    return {"wer_difference": {"value": estimate.value, "ci95": estimate.ci95}}


def _table(rows: list[dict[str, Any]]) -> str:
    """Markdown table with a row for each arm and number of evaluations."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    for row in rows:
        figures = [
            _cell(row["wer"], 100, 1),
            "" if row["arm"] == rows[0]["arm"] else _cell(row["wer_difference"], 100, 1),
            _cell(row["closer_to_target"], 100, 0),
            _cell(row["sim-o"], 1, 3),
            _cell(row["dnsmos-p808"], 1, 2),
        ]
        lines.append(f"| {row['arm']} | {row['evaluations']} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def _cell(estimate: dict[str, Any], scale: float, digits: int) -> str:
    value, ends = estimate["value"], estimate["ci95"]
    if value is None:
        return "not available"
    interval = (
        ""
        if ends is None
        else " [{:.{d}f}, {:.{d}f}]".format(*(scale * end for end in ends), d=digits)
    )
    return f"{scale * value:.{digits}f}{interval}"


if __name__ == "__main__":
    cli.run(main)
