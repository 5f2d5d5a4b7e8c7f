"""Does the semantic prior improve quality, or only efficiency? The question of arXiv 2401.13527.

    python -m experiments.flow_study --tokens=DATASET --audio_dir=DIR --workdir=DIR

Trains flow matching once for each chain (implicit: the prior is centred at the semantics; plain:
the network is told the semantics; explicit: told the semantics, adds them to its result), of equal
configuration, data and steps. Each then converts the voices of the same recordings with several
numbers of network evaluations by Euler's method. Word error rate, the share of samples closer to
the target's voice than to the source's, similarity and DNSMOS come with 95 % intervals, and so do
differences to the implicit chain on the same items. The results are `study.json` and `study.md` in
--workdir. What is finished is kept: interrupt and start again.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline import cli
from experiments.demo_steps import Timings, read_json
from gpst_jax.evaluation import statistics

CHAINS = ("implicit", "plain", "explicit")
_MODE = "voice_conversion"
_ERRORS = ("substitutions", "deletions", "insertions")
_COLUMNS = (
    "chain",
    "evaluations",
    "WER, %",
    "less implicit, points",
    "closer to target, %",
    "similarity to target",
    "DNSMOS P.808",
)

_TOKENS = flags.DEFINE_string("tokens", None, "Dataset of token shards.", required=True)
_AUDIO_DIR = flags.DEFINE_string("audio_dir", None, "Root of its recordings.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for everything made.", required=True)
_CONFIG = flags.DEFINE_string(
    "config", "experiments/configs/coig_flow_demo.py", "Training run of every chain."
)
_EVALUATIONS = flags.DEFINE_list("evaluations", ["1", "2", "4", "8", "16", "32"], "To compare.")
_ITEMS = flags.DEFINE_integer("items", 60, "Recordings whose voice is converted.", 2)
_TEMPERATURE = flags.DEFINE_float("flow_temperature", 1.0, "Of the noise that paths begin with.")
_SET = flags.DEFINE_multi_string("set", [], "Config fields of every chain, as of pretrain.")


def main(argv: list[str]) -> int:
    """Trains, samples, measures and writes the tables."""
    del argv
    workdir = Path(_WORKDIR.value)
    timings = Timings(workdir / "timings.json")
    rows: list[dict[str, Any]] = []
    base: dict[int, list[dict[str, Any]]] = {}  # items of the implicit chain, by evaluations
    for chain in CHAINS:
        trained = _train(timings, workdir, chain)
        for count in map(int, _EVALUATIONS.value):
            results, items = _measure(timings, workdir, chain, count)
            base.setdefault(count, items)
            rows.append(
                {"chain": chain, "evaluations": count}
                | trained
                | _figures(results["modes"][_MODE])
                | _differences(items, base[count])
            )
    codec = results["ceilings"]["codec"]
    study = {"rows": rows, "codec": _figures(codec), "items": _ITEMS.value}
    study |= {"settings": results["settings"], "timings_s": timings.rounded()}
    cli.write_json(workdir / "study.json", study)
    table = _table(rows)
    cli.write_text(workdir / "study.md", table)
    print(f"\n{table}\nNumbers: {workdir / 'study.json'}")
    return 0


def _train(timings: Timings, workdir: Path, chain: str) -> dict[str, Any]:
    run, out = workdir / f"train_{chain}", workdir / f"train_{chain}.json"
    call = ["experiments.pretrain", f"--config={_CONFIG.value}", f"--workdir={run}"]
    call += [f"--set=data.path={_TOKENS.value}", f"--json_out={out}"]
    call += [f"--set={value}" for value in (*_SET.value, f"model.chain={chain}")]
    if not out.exists():
        timings.run(f"train {chain}", call)
    result = read_json(out)
    return {"steps": result["steps"], "parameters": result["parameters"]}


def _measure(
    timings: Timings, workdir: Path, chain: str, count: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Results of an evaluation, and the scores of its items in the order of their ids."""
    name = f"{chain}_{count}"
    samples, results = workdir / "samples" / name, workdir / "results" / f"{name}.json"
    scores = results.with_suffix(".jsonl")
    if not results.exists():
        call = ["experiments.generate", f"--workdir={workdir / f'train_{chain}'}"]
        call += [f"--dataset={_TOKENS.value}", f"--audio_dir={_AUDIO_DIR.value}"]
        call += [f"--output={samples}", f"--modes={_MODE}", "--solver=euler"]
        call += [f"--flow_steps={count}", f"--flow_temperature={_TEMPERATURE.value}"]
        call += [f"--items={_ITEMS.value}", "--unseen_items=0"]
        timings.run(f"generate {name}", call)
        call = ["experiments.evaluate", f"--samples={samples}", f"--items_out={scores}"]
        timings.run(f"evaluate {name}", [*call, f"--json_out={results}"])
    lines = map(json.loads, scores.read_text().splitlines())
    items = [line for line in lines if line["condition"] == _MODE]
    return read_json(results), sorted(items, key=lambda item: item["id"])


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of one condition: value and interval of each."""
    found = {}
    for name, values in row.items():
        short = "wer" if name.startswith("wer/") else name.split("/")[0]
        if isinstance(values, dict) and "value" in values:
            found[short] = {key: values[key] for key in ("value", "ci95", "n")}
    return found


def _differences(items: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    """Word error rate less that of the base on the same items."""
    if [item["id"] for item in items] != [item["id"] for item in base]:
        raise cli.UserError("the chains were measured on different items; use a new --workdir")
    columns = []
    for group in (items, base):
        counts = [item["errors"] for item in group]
        columns.append([sum(count[kind] for kind in _ERRORS) for count in counts])
        columns.append([count["words"] for count in counts])
    estimate = statistics.paired_ratio_difference(*columns)
    return {"wer_difference": {"value": estimate.value, "ci95": estimate.ci95}}


def _table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line for each chain and number of evaluations."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    for row in rows:
        figures = [
            _cell(row["wer"], 100, 1),
            "" if row["chain"] == CHAINS[0] else _cell(row["wer_difference"], 100, 1),
            _cell(row["closer_to_target"], 100, 0),
            _cell(row["sim-o"], 1, 3),
            _cell(row["dnsmos-p808"], 1, 2),
        ]
        lines.append(f"| {row['chain']} | {row['evaluations']} | {' | '.join(figures)} |")
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
