"""Speech in, speech out: every step of a GPST run on one machine.

    make demo
    make demo ARGS='--source=folder --audio_dir=DIR [--transcripts=FILE.csv]'

Calls the public entry points one after another and prints each command before it runs, so that
any of them can be repeated by hand. Every step keeps what it has finished: interrupt the demo and
start it again, and it goes on. The result is `report.html` and `report.json` in --workdir.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from absl import flags

from data_pipeline import cli
from gpst_jax.evaluation import report

_SOURCE = flags.DEFINE_enum(
    "source", "espeak", ["espeak", "folder"], "Synthetic speech, or recordings of your own."
)
_AUDIO_DIR = flags.DEFINE_string("audio_dir", None, "Recordings, for --source=folder.")
_TRANSCRIPTS = flags.DEFINE_string("transcripts", None, "CSV file that goes with --audio_dir.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Directory for everything that is made.")
_CONFIG = flags.DEFINE_string("config", "experiments/configs/gpst_demo.py", "The training run.")
_SET = flags.DEFINE_multi_string("set", [], "Overrides of the configuration: section.field=value.")
_ITEMS = flags.DEFINE_integer("items", 200, "Generated items per mode for seen voices.")
_UNSEEN = flags.DEFINE_integer("unseen_items", 60, "Generated items per mode for unseen voices.")
_SMOKE = flags.DEFINE_bool("smoke", False, "A small corpus, few steps and few items: minutes.")

_PARTIAL = 1  # exit code of the tokeniser when it had to leave files out


def main(argv: list[str]) -> int:
    """Runs all steps; returns the exit code of the one that ended the demo."""
    del argv
    workdir = Path(_WORKDIR.value)
    corpus, tokens, run = workdir / "corpus", workdir / "tokens", workdir / "train"
    samples, results = workdir / "samples", workdir / "results.json"
    audio_dir, transcripts = _recordings(corpus)
    timings = Timings(workdir / "timings.json")

    if _SOURCE.value == "espeak":
        sizes = ["--utterances_per_voice=40", "--valid_per_voice=4", "--unseen_per_voice=6"]
        call = ["data_pipeline.synthesize_corpus", f"--output={corpus}"]
        timings.run("corpus", [*call, *(sizes if _SMOKE.value else [])])

    call = ["data_pipeline.tokenize_corpus", f"--audio_dir={audio_dir}", f"--output={tokens}"]
    if transcripts:
        call.append(f"--transcripts={transcripts}")
    timings.run("tokenise", call, accept=(0, _PARTIAL))

    train_json = workdir / "train.json"
    call = ["experiments.pretrain", f"--config={_CONFIG.value}", f"--workdir={run}"]
    call += [f"--set=data.path={tokens}", f"--json_out={train_json}"]
    call += ["--set=train.steps=30", "--set=optimizer.warmup_steps=5"] if _SMOKE.value else []
    timings.run("pretrain", [*call, *(f"--set={value}" for value in _SET.value)])

    items, unseen = (6, 4) if _SMOKE.value else (_ITEMS.value, _UNSEEN.value)
    call = ["experiments.generate", f"--workdir={run}", f"--audio_dir={audio_dir}"]
    call += [f"--output={samples}", f"--items={items}", f"--unseen_items={unseen}"]
    timings.run("generate", call)

    timings.run(
        "evaluate", ["experiments.evaluate", f"--samples={samples}", f"--json_out={results}"]
    )

    merged = merge_results(_read(results), _read(train_json), timings.seconds)
    cli.write_json(workdir / "report.json", merged)
    if cli.JSON_OUT.value:
        cli.write_json(cli.JSON_OUT.value, merged)
    page = workdir / "report.html"
    report.render_report(
        merged, samples, run / "metrics.jsonl", page, "GPST demo: speech in, speech out"
    )
    print(f"\nThe whole demo took {sum(timings.seconds.values()) / 60:.1f} minutes.")
    print(f"Numbers: {workdir / 'report.json'}\nListen:  {page}")
    return 0


def merge_results(evaluation: dict, train: dict, timings: dict[str, float]) -> dict:
    """The content of report.json: evaluation, what training reached, and seconds per step.

    Args:
        evaluation: what experiments.evaluate wrote.
        train: what experiments.pretrain wrote.
        timings: seconds by step.
    """
    final = train["final"]
    codebooks = sum(name.startswith("eval/nll_acoustic_q") for name in final)
    return evaluation | {
        "timings_s": {step: round(seconds, 1) for step, seconds in timings.items()},
        "train": {
            "steps": train["steps"],
            "parameters": train["parameters"],
            # A call that only finds the run finished has no rate of its own.
            "tokens_per_s": train.get("tokens_per_s", final.get("perf/tokens_per_s")),
            "final_nll_semantic": final.get("eval/nll_semantic"),
            "final_nll_acoustic": [final[f"eval/nll_acoustic_q{q}"] for q in range(codebooks)],
        },
    }


class Timings:
    """Runs the steps, and keeps how long each took over all calls of the demo.

    Args:
        path: JSON file of seconds by step.
    """

    def __init__(self, path: Path):
        self._path = path
        self.seconds: dict[str, float] = _read(path) if path.exists() else {}

    def run(self, step: str, call: list[str], accept: tuple[int, ...] = (0,)) -> None:
        """Runs a module as a program of its own; another exit code than accepted ends the demo."""
        print(f"\n[{step}] python -m {shlex.join(call)}", flush=True)
        started = time.monotonic()
        try:
            code = subprocess.run([sys.executable, "-m", *call], env=_environment()).returncode
        except KeyboardInterrupt:
            print("\nInterrupted: start the demo again with the same flags to go on.")
            sys.exit(130)
        finally:
            spent = time.monotonic() - started
            self.seconds[step] = self.seconds.get(step, 0.0) + spent
            cli.write_json(self._path, self.seconds)
        if code not in accept:
            print(f"[{step}] ended with exit code {code}: see above; start again to go on.")
            sys.exit(code)
        print(f"[{step}] {spent:.1f} s", flush=True)


def _recordings(corpus: Path) -> tuple[Path, Path | None]:
    """Where the recordings are, and the CSV file that describes them."""
    if _SOURCE.value == "espeak":
        return corpus, corpus / "manifest.csv"
    if not _AUDIO_DIR.value:
        raise cli.UserError("--audio_dir is missing: --source=folder needs a directory of audio")
    return Path(_AUDIO_DIR.value), Path(_TRANSCRIPTS.value) if _TRANSCRIPTS.value else None


def _environment() -> dict[str, str]:
    # Speech processing is many small transforms: threads of its own would only get in the way.
    return {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | dict(os.environ)


def _read(path: Path) -> dict:
    return json.loads(path.read_text())


if __name__ == "__main__":
    cli.run(main)
