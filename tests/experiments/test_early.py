"""Flags and configurations are refused before any work, in one line, from any directory."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from program_lines import ROOT, outcomes, refused
from stored_archive import unpack_with_recordings

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.flag_rules import check_local
from experiments.common import RunLoaders


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    return unpack_with_recordings(tmp_path_factory.mktemp("stored"))


def test_the_demo_checks_everything_first_and_runs_from_any_directory(tmp_path):
    workdir = f"--workdir={tmp_path}/run"
    refused(
        "experiments.demo",
        {
            f"{workdir} --source=folder": "--audio_dir is missing",
            f"{workdir} --source=folder --audio_dir=nowhere": "--audio_dir=nowhere: no such",
            f"{workdir} --audio_dir=recordings": "--audio_dir: is for --source=folder",
            f"{workdir} --config.model.width=1": "config field model.width: no such field",
            f"{workdir} --lm_config.model.x=1": "--lm_config: config field model.x: no such field",
            f"{workdir} --config.data.path=x": "--config.data.path: the demo makes the dataset",
            f"{workdir} --config=my.py": "--config=my.py: no such file",
            f"{workdir} --smoke --items=3": "--items: is fixed by --smoke",
            "--workdir=gs://bucket/demo": "buckets are not written directly",
        },
        cwd=Path("/"),
    )
    assert list(tmp_path.iterdir()) == []


def test_the_second_demo_checks_its_configurations_first(tmp_path):
    refused(
        "experiments.demo_coig",
        {
            f"--workdir={tmp_path}/run --flow_config=my.py": "--flow_config=my.py: no such file",
            f"--workdir={tmp_path}/run --lm_config.train.steps=0": "--lm_config: config field",
        },
        cwd=Path("/"),
    )


def test_tokenisation_refuses_outputs_in_buckets(tmp_path):
    lines = ("--audio_dir=. --output=gs://bucket/tokens", "--audio_dir=. --output=s3://b/tokens")
    cases = dict.fromkeys(lines, "buckets are not written directly")
    cases["--audio_dir=gs://bucket/recordings --output=tokens"] = "is not read from a bucket"
    refused("data_pipeline.tokenize_corpus", cases, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["runs/a", "/mnt/gpst/a:b", "C:/runs", "a b/c", "runs//x", "."])
def test_paths_of_file_systems_are_none_in_buckets(path):
    check_local("output", path)


def test_generation_refuses_flags_without_effect(stored):
    rest = "--audio_dir=recordings --output=out"
    gpst, flow = f"--workdir=runs/gpst {rest}", f"--workdir=runs/flow {rest}"
    run_of_gpst = "--workdir=runs/gpst --output=o"
    refused(
        "experiments.generate",
        {
            f"{gpst} --flow_steps=3": "--flow_steps: is for models of family 'flow'",
            f"{gpst} --soundstorm_steps=3": "--soundstorm_steps: is for models of family",
            f"{gpst} --lm_workdir=runs/lm --mode=continuation": "--lm_workdir: is for the mode tts",
            f"{gpst} --mode=tts": "--mode=tts needs a language model: give --lm_workdir",
            f"{gpst} --dialogue=d.jsonl": "--dialogue: is for models of family",
            f"{flow} --top_k=3": "--top_k: is for models of family 'gpst'",
            f"{gpst} --prompt_language=xx": "--prompt_language=xx: the recordings of",
            f"{flow} --dialogue=d.jsonl": "which --lm_workdir names",
            "--workdir=runs/gpst --output=s3://b/samples": "buckets are not written directly",
            "--workdir=s3://b/run --output=o": "--workdir=s3://b/run: buckets are not",
            "--workdir=gs://b --output=o": "gs://b: give gs://BUCKET/NAME",
            f"{run_of_gpst} --audio_dir=gs://b/c": "--audio_dir=gs://b/c: is not read from a",
            f"{run_of_gpst} --manifest=gs://b/m.jsonl": "give the local path",
        },
        stored,
    )
    assert not (stored / "out").exists()


def test_commands_of_generation_that_mean_nothing_are_one_line(stored):
    before = sorted(path.name for path in stored.iterdir())
    run, what = "--workdir=runs/gpst", "--source=recordings/what.wav"
    refused(
        "experiments.generate",
        {
            f"{run} --output=o --modes=tts": "--modes: is called --mode now",
            f"{run} --output=o.wav {what}": "--mode is missing",
            f"{run} --output=o.wav {what} --audio_dir=recordings": (
                "--audio_dir: is for the recordings of a dataset, which --source excludes"
            ),
            f"{run} --output=o --manifest=m {what}": "--source: stands in the lines",
            f"{run} --output=o --text=one": "--output=o: one input makes one file",
            f"{run} --output=o --seconds=1": "--seconds: is for --source",
            f"{run} --output=o.flac --text=one --stream": "--output=o.flac: a stream is written",
            f"{run} --output=o.wav --text=one --mode=tts,dialogue": "give one mode",
            f"{run} --output=o.wav --text=a --stream --best_of=2": "leave out --stream or",
            f"{run} --output=o.wav --text=one --language=de": "--language: is for the recordings",
        },
        stored,
    )
    assert sorted(path.name for path in stored.iterdir()) == before


def test_fine_tuning_checks_its_flags_before_it_tokenises(stored):
    tune = "--checkpoint=runs/gpst --workdir=out --audio_dir=recordings"
    refused(
        "experiments.finetune",
        {
            f"{tune} --dataset=d": "--audio_dir: is for recordings",
            f"{tune} --source=folder:x": "one of --audio_dir, --source",
            f"{tune} --rank=3": "--rank: is for --method=lora",
            f"{tune} --vocabulary=extend": "--vocabulary: is for a --dataset",
            f"{tune} --config.data.path=x": "give the data as --dataset",
            f"{tune} --config.train.step=9": "train.step: no such field",
            f"{tune} --config.train.steps=9 --steps=5": "--config.train.steps: --steps sets it",
            f"{tune} --config=a.py": "write --config.section.field=value",
            f"{tune} --method=lora --targets=[": "no valid pattern",
            "--checkpoint=a --audio_dir=. --workdir=s3://b/run": "buckets are not written",
            "--checkpoint=a --source=folder:gs://b/c --workdir=d": "is not read from a bucket",
        },
        stored,
    )
    assert not (stored / "out").exists()
    (stored / "out").mkdir()
    (stored / "out" / "finetune.json").write_text('{"vocabulary": "extend"}')
    refused("experiments.finetune", {tune: "out: started with"}, stored)
    assert [path.name for path in (stored / "out").iterdir()] == ["finetune.json"]
    shutil.rmtree(stored / "out")


@pytest.mark.parametrize(
    ("program", "cases"),
    [
        (
            "experiments.evaluate",
            {
                "--samples=. --title=A": "--title: is for the page",
                "--samples=s3://bucket/samples": "buckets are not written directly",
                "--workdir=a --corpus_dir=gs://bucket/vctk": "is not read from a bucket",
            },
        ),
        (
            "experiments.export",
            {
                "--checkpoint=a --output=b --public": "--public: is given with --upload only",
                "--checkpoint=a --output=gs:/bucket/b": "buckets are not written directly",
            },
        ),
        (
            "experiments.pretrain",
            {"--config=a.py --workdir=b --process_id=1": "is given with --coordinator only"},
        ),
        (
            "experiments.compile",
            {
                "--config=a.py --topology=v5e:4x4 --rows_per_chip=2 --config.data.batch_size=8": (
                    "--config.data.batch_size: --rows_per_chip sets it"
                ),
                "--config=a.py --topology=v5e:4x4 --suggest --config.model.remat=dots": (
                    "--config.model.remat: --suggest searches for it"
                ),
            },
        ),
    ],
)
def test_other_programs_refuse_flags_without_effect(program, cases, tmp_path):
    refused(program, cases, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_dataset_is_found_from_another_directory(stored, tmp_path):
    """The stored runs are of a version that did not record where they started."""
    (tmp_path / "alone").mkdir()
    shutil.copytree(stored / "runs" / "soundstorm", tmp_path / "alone" / "soundstorm")
    rest = f"--audio_dir={stored}/recordings --items=1 --unseen_items=0 --prompt_seconds=1"
    rest += f" --soundstorm_steps=1 --output={tmp_path}/samples"
    found, lost = outcomes(
        "experiments.generate",
        [f"--workdir={stored}/runs/soundstorm {rest}", f"--workdir=alone/soundstorm {rest}"],
        tmp_path,
    )
    assert found[0] == 0, found
    assert lost[0] == 2
    assert "give the dataset, or a copy of it, as --dataset" in lost[2]


def test_recordings_too_few_to_hold_one_out_are_refused_before_training(tmp_path):
    code = "import sys; from pathlib import Path; from experiments import demo; "
    code += "demo._check_splits(Path(sys.argv[1]))"
    counts = {"train": {"num_records": 4}}
    (tmp_path / "dataset.json").write_text(json.dumps({"splits": counts}))
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "holds 4 recordings, too few" in done.stderr
    assert "with 5 or more, one is" in done.stderr


def test_evaluation_without_validation_data_is_refused(monkeypatch):
    loaders = object.__new__(RunLoaders)
    loaders._data = SimpleNamespace(path="tokens")
    for loader, expected in (
        (None, "no split 'valid'"),
        (SimpleNamespace(rows_per_epoch=0), "no rows"),
    ):
        monkeypatch.setattr(loaders, "make", lambda split, loader=loader: loader, raising=False)
        with pytest.raises(
            UserError, match=rf"tokens has {expected}.*5 recordings.*eval_batches=0"
        ):
            loaders.check_validation(8)
        loaders.check_validation(0)
    monkeypatch.setattr(loaders, "make", lambda split: SimpleNamespace(rows_per_epoch=1))
    loaders.check_validation(8)
