"""SpeechGPT-Gen on one machine: a semantic language model and flow matching.

    make demo-coig

Runs the public programs one after another and prints each command first, so that any of them can be
repeated by hand. Every step keeps what it has finished: an interrupted demo resumes when started
again. The results are `report.html` and `report.json` in --workdir: zero-shot text to speech for
unseen speakers, voice conversion, and spoken questions answered in speech.
"""

from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.flag_rules import refuse
from experiments import config_flags
from experiments.demo_steps import SMOKE_TRAINING, Timings, check_config, read_json
from gpst_jax.evaluation.report.page import render_report

_WORKDIR = flags.DEFINE_string("workdir", "runs/demo-coig", "Directory for all outputs.")
_LM_CONFIG = config_flags.DEFINE_config(
    "lm_config", "experiments/configs/coig_lm_demo.py", "Configuration of the language model's run."
)
_FLOW_CONFIG = config_flags.DEFINE_config(
    "flow_config", "experiments/configs/coig_flow_demo.py", "Configuration of flow matching's run."
)
_ITEMS = flags.DEFINE_integer("items", 80, "Items per task, of seen speakers.", 1)
_UNSEEN = flags.DEFINE_integer("unseen_items", 30, "Items per task, of unseen speakers.", 0)
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "A small corpus, few steps and few items; takes minutes."
)


def main(argv: list[str]) -> int:
    """Runs all steps; returns the exit code of the one that ended the demo."""
    del argv
    if _SMOKE.value:
        refuse(("items", "unseen_items"), "is fixed by --smoke: leave one of them out")
    check_config(_LM_CONFIG)
    check_config(_FLOW_CONFIG)
    smoke, workdir = _SMOKE.value, Path(_WORKDIR.value)
    corpus, tokens, sequences = workdir / "corpus", workdir / "tokens", workdir / "sequences"
    fitted, text = workdir / "tokenizers", workdir / "text_tokenizer"
    samples, results = workdir / "samples", workdir / "results.json"
    dialogues = corpus / "dialogues.jsonl"
    timings = Timings(workdir / "timings.json")

    call = ["data_pipeline.synthesize_corpus", f"--output={corpus}"]
    sizes = ["--utterances_per_voice=40", "--valid_per_voice=4", "--unseen_per_voice=6"]
    call += [*sizes, "--questions_per_voice=10"] if smoke else ["--questions_per_voice=240"]
    timings.run("corpus", call)

    source = [f"--audio_dir={corpus}", f"--transcripts={corpus / 'manifest.csv'}"]
    unified = fitted / "unified"
    if not unified.exists():
        call = ["data_pipeline.fit_tokenizers", *source, f"--output={fitted}", "--unified"]
        call += ["--num_codebooks=8", *(["--codebook_size=64"] if smoke else [])]
        timings.run("tokenizers", call)
    call = ["data_pipeline.tokenize_corpus", *source, f"--output={tokens}"]
    timings.run("tokenise", [*call, f"--semantic={unified}", f"--codec={unified}"])

    if not text.exists():
        call = ["data_pipeline.fit_text_tokenizer", f"--source={tokens}", f"--output={text}"]
        timings.run("text tokenizer", [*call, "--vocab_size=384"])
    for name, tasks in (
        ("instructions", ["--tasks=asr,tts"]),
        ("dialogues", ["--tasks=speech_to_speech", f"--dialogue={dialogues}"]),
    ):
        call = ["data_pipeline.build_sequences", f"--tokens={tokens}"]
        call += [f"--output={sequences / name}", *tasks, f"--text_tokenizer={text}"]
        call += ["--system=", "--max_length=512", "--train_on=answer"]
        timings.run(name, call, accept=(exit_codes.OK, exit_codes.PARTIAL))
    # Equal weights: there are nine times as many instructions as dialogues.
    mixture = sequences / "mixture.json"
    shares = [{"path": name, "weight": 1} for name in ("instructions", "dialogues")]
    write_json(mixture, {"datasets": shares})

    for name, config, data in (
        ("language model", _LM_CONFIG, mixture),
        ("flow", _FLOW_CONFIG, tokens),
    ):
        small = SMOKE_TRAINING if smoke else ()
        call = ["experiments.pretrain", *config.as_flags(f"data.path={data}", *small)]
        call += [f"--workdir={_run(workdir, name)}", f"--json_out={_run(workdir, name)}.json"]
        timings.run(name, call)

    items, unseen = (6, 4) if smoke else (_ITEMS.value, _UNSEEN.value)
    call = ["experiments.generate", f"--workdir={_run(workdir, 'flow')}"]
    call += [f"--lm_workdir={_run(workdir, 'language model')}", f"--audio_dir={corpus}"]
    call += [f"--dialogue={dialogues}", f"--output={samples}"]
    # These settings were chosen on the items of --seed=0, not on those of --seed=1.
    call += ["--flow_steps=4", "--flow_temperature=0.4", "--semantic_temperature=0.3", "--seed=1"]
    timings.run("generate", [*call, f"--items={items}", f"--unseen_items={unseen}"])

    call = ["experiments.evaluate", f"--samples={samples}", f"--json_out={results}"]
    call += ["--wer_items=15", *(["--mos_items=3"] if smoke else [])]
    timings.run("evaluate", call, accept=(exit_codes.OK, exit_codes.PARTIAL))

    stages = {
        name: _trained(read_json(Path(f"{_run(workdir, name)}.json")))
        for name in ("language model", "flow")
    }
    merged = read_json(results) | {"timings_s": timings.rounded(), "train": stages}
    write_json(workdir / "report.json", merged)
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, merged)
    render_report(
        merged,
        samples,
        None,
        workdir / "report.html",
        "SpeechGPT-Gen demo: content from a language model, voice from flow matching",
    )
    timings.finish(workdir)
    return 0


def _run(workdir: Path, stage: str) -> Path:
    return workdir / ("train_" + stage.replace(" ", "_"))


def _trained(result: dict[str, Any]) -> dict[str, Any]:
    """Steps, parameters and final evaluation, from a result of experiments.pretrain."""
    final = {
        name.removeprefix("eval/"): value
        for name, value in result["final"].items()
        if name.startswith("eval/")
    }
    return {"steps": result["steps"], "parameters": result["parameters"]} | final


if __name__ == "__main__":
    cli.run(main)
