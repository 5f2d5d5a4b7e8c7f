"""`--config=FILE:ARGUMENT`, `--config.section.field=value` and `--config.help`."""

import dataclasses
import json
import subprocess
import sys
import typing
from pathlib import Path

import doc_check
import pytest
from absl import flags
from program_lines import ROOT, outcomes, refused

from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from experiments import config_flags
from experiments.common import load_config
from experiments.configs import coig_lm_demo, gpst_demo
from gpst_jax import config as run_config
from gpst_jax.config import ConfigError, RunConfig, override_flags
from gpst_jax.config.field_help import comments, describe
from gpst_jax.config.overrides import from_flags, with_defaults

RUN = gpst_demo.get_config()


def paths(section: typing.Any, prefix: str = "") -> list[str]:
    """Dotted names of all fields of a configuration that are no sections."""
    found = []
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            found += paths(value, f"{prefix}{field.name}.")
        else:
            found.append(prefix + field.name)
    return found


# Changing fields


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["train.steps=5", "train.steps=6"], r"train\.steps: given twice, as 5 and as 6"),
        (["train.steps=5", "train.steps=5"], r"train\.steps: given twice"),
        (["mesh.fsdp=1", 'mesh={"fsdp": 2}'], r"mesh: given twice, within mesh and as mesh\.fsdp"),
        (['mesh={"fsdp": 2}', "mesh.fsdp=1"], r"given twice, within mesh and as mesh\.fsdp"),
        (["train.stepz=5"], r"train\.stepz: no such field; did you mean train\.steps\?"),
        (["steps=5"], r"steps: no such field; did you mean train\.steps\?"),
        (["trian.steps=5"], r"did you mean train\.steps\?"),
        (["learning_rate=1"], r"did you mean optimizer\.learning_rate\?"),
        (["optimizer.lr=1"], r"no such field; optimizer has name, learning_rate, "),
        (["optimizers=1"], r"did you mean optimizer\?"),
        (["train.steps.x=1"], r"no such field: train\.steps is \d+"),
        (["data.rows=5"], r"data\.rows: is now data\.batch_size"),
        (["optimizer.beta1=NaN"], r"optimizer\.beta1: expected float, got 'NaN'"),
        (["optimizer.beta1=-Infinity"], r"expected float"),
        (["train.steps=True"], r"expected int, got True"),
        (["data.batch_size=3", "train.grad_accum_steps=2"], r"do not divide data\.batch_size"),
    ],
)
def test_what_is_wrong_with_a_field_is_said(assignments, message):
    with pytest.raises(ConfigError, match=message):
        RUN.override(assignments)


def test_fields_that_must_agree_are_changed_together():
    changed = RUN.override(["train.grad_accum_steps=3", "data.batch_size=9"])
    assert (changed.train.grad_accum_steps, changed.data.batch_size) == (3, 9)


def test_values_are_json_or_literals_of_python_or_text():
    changed = RUN.override(
        ["data.deduplicate=True", "data.positions=running", "model.semantic_loss=false"]
    )
    assert changed.data.deduplicate is True
    assert changed.to_dict()["model"]["semantic_loss"] is False
    net = "model.global_net.num_kv_heads"
    assert RUN.override([f"{net}=2"]).override([f"{net}=None"]).model == RUN.model
    assert RUN.override(["data.path=None", "name=a=b"]).data.path == "None"
    assert RUN.override(["name=a=b"]).name == "a=b"
    scaling = '{"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, '
    scaling += '"original_max_positions": 8192}'
    language = coig_lm_demo.get_config().override([f"model.rope_scaling={scaling}"])
    changed = language.override(["model.rope_scaling.factor=2"])
    assert changed.to_dict()["model"]["rope_scaling"]["factor"] == 2.0


def test_defaults_give_way():
    assert with_defaults(["a.b=1"], ["a.b=2", "a.c=3"]) == ["a.c=3", "a.b=1"]


def test_stored_flags_are_read_in_both_forms():
    assert from_flags(["--set=a.b=c=d", "--config.a.b=c=d"]) == ["a.b=c=d"] * 2


# The help


def test_every_field_has_its_meaning_beside_it():
    for cls in vars(run_config).values():
        if isinstance(cls, type) and dataclasses.is_dataclass(cls):
            sections = {
                name
                for name, hint in typing.get_type_hints(cls).items()
                if any(map(dataclasses.is_dataclass, (hint, *typing.get_args(hint))))
            }
            missing = {f.name for f in dataclasses.fields(cls)} - sections - comments(cls).keys()
            assert not missing, f"{cls.__name__}: no comment beside {sorted(missing)}"


def test_a_comment_above_or_beside_a_field_is_its_meaning():
    @dataclasses.dataclass
    class Toy:
        a: int = 1  # of a
        # Of b,
        # on two lines.
        b: str = "# none"
        c: int = 2

    assert comments(Toy) == {"a": "of a", "b": "Of b, on two lines."}


@pytest.mark.parametrize("config", [RUN, coig_lm_demo.get_config()], ids=lambda c: c.name)
def test_the_help_has_every_field_of_a_configuration(config):
    text = describe(config)
    assert [line.split("=")[0] for line in text.splitlines()] == [
        f"--config.{path}" for path in paths(config)
    ]
    # What it shows can be given.
    shown = [line.removeprefix("--config.").split(" (")[0] for line in text.splitlines()]
    assert config.override(shown) == config


def test_the_help_without_a_configuration_has_every_family():
    text = describe(RunConfig)
    for path in (*paths(RUN), *paths(coig_lm_demo.get_config()), "model.backbone", "model.sigma"):
        assert f"--config.{path}=" in text, path
    assert "--config.name=VALUE (str, no default): " in text
    assert "--config.mesh.fsdp=-1 (int, default -1): " in text


# FILE:ARGUMENT

PLAIN = "from experiments.configs import gpst_demo\n\ndef get_config({}):\n"
PLAIN += "    return gpst_demo.get_config().override([f'name={}'])\n"


@pytest.fixture
def files(tmp_path) -> Path:
    (tmp_path / "none.py").write_text(PLAIN.format("", "none"))
    (tmp_path / "one.py").write_text(PLAIN.format("size", "{size}"))
    (tmp_path / "optional.py").write_text(PLAIN.format("size='small'", "{size}"))
    (tmp_path / "keyword.py").write_text(PLAIN.format("*, size='small'", "{size}"))
    return tmp_path


def test_an_argument_goes_to_get_config(files):
    assert load_config(f"{files}/one.py:large").name == "large"
    assert load_config(f"{files}/one.py:a:b=c").name == "a:b=c"
    assert load_config(f"{files}/one.py:").name == ""
    assert load_config(f"{files}/optional.py").name == "small"
    assert load_config(f"{files}/optional.py:large").name == "large"
    assert load_config("experiments.configs.gpst_demo") == RUN


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py:large", r"takes no argument, and 'large' is one: give --lm_config=.*none\.py$"),
        ("keyword.py:large", "takes no argument"),
        ("one.py", r"get_config\(size\) needs an argument: give --lm_config=.*one\.py:SIZE$"),
        ("nowhere.py:large", r"--lm_config=.*nowhere\.py: no such file"),
    ],
)
def test_an_argument_that_is_missing_or_too_many_is_named(files, name, message):
    with pytest.raises(UserError, match=message):
        load_config(f"{files}/{name}", "lm_config")


def test_a_module_takes_an_argument_too():
    with pytest.raises(UserError, match="takes no argument"):
        load_config("experiments.configs.gpst_demo:large")


# The command line


@pytest.fixture
def toy():
    """Flags that no program has: programs share the names of theirs."""
    yield config_flags.DEFINE_config("toy_config", "experiments/configs/gpst_demo.py", "A toy.")
    delattr(flags.FLAGS, "toy_config")
    del override_flags._defined["toy_config"]


def test_fields_are_taken_off_the_command_line(toy, tmp_path):
    file = tmp_path / "more.flags"
    file.write_text("# A comment.\n--toy_config.mesh.tensor=2\n--verbosity=0\n")
    words = ["x", "--toy_config.train.steps=5", "--toy_config.mesh.fsdp", "-1"]
    words += [f"--flagfile={file}"]
    words += ["-toy_config.data.path=a b=c", "rest", "--", "--toy_config.train.steps=6"]
    left = override_flags.take(words)
    assert left == ["x", "--verbosity=0", "rest", "--", "--toy_config.train.steps=6"]
    expected = ["train.steps=5", "mesh.fsdp=-1", "mesh.tensor=2", "data.path=a b=c"]
    assert toy.overrides == expected
    config = toy.load("train.steps=7", "train.seed=8")
    assert (config.train.steps, config.train.seed, config.data.path) == (5, 8, "a b=c")
    assert toy.as_flags("train.steps=7", "train.seed=8") == [
        "--config=experiments/configs/gpst_demo.py",
        "--config.train.seed=8",
        *(f"--config.{assignment}" for assignment in expected),
    ]
    with pytest.raises(UserError, match=r"--toy_config\.data\.path: why"):
        toy.refuse("data.path", "why")
    toy.refuse("data.seed", "why")
    assert override_flags.take(["x"]) == ["x"]
    assert toy.overrides == []


def test_a_section_holds_its_fields(toy):
    override_flags.take(["x", '--toy_config.data={"path": "a"}'])
    with pytest.raises(UserError, match=r"--toy_config\.data: why"):
        toy.refuse("data.path", "why")


@pytest.mark.parametrize("words", [["--toy_config.a.b"], ["--toy_config.a.b", "--json_out=c"]])
def test_a_field_without_a_value_is_refused(toy, words):
    with pytest.raises(UserError, match=r"needs a value: --toy_config\.a\.b=VALUE"):
        override_flags.take(["x", *words])


def test_messages_name_another_flag_than_config(toy):
    override_flags.take(["x", "--toy_config.train.stepz=5"])
    with pytest.raises(UserError, match=r"^--toy_config: config field train\.stepz: no such"):
        toy.load()


@pytest.mark.parametrize("words", [["--toy_config", "FILE"], ["--toy_config=FILE"], []])
def test_the_help_is_of_the_configuration_that_is_named(toy, words, files, capsys):
    name = f"{files}/optional.py:large" if words else "experiments/configs/gpst_demo.py"
    words = [word.replace("FILE", name) for word in words]
    with pytest.raises(SystemExit) as end:
        cli.parse_flags(["x", *words, "--toy_config.train.steps=7", "--toy_config.help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert f"--toy_config.name={'large' if words else RUN.name} (str" in printed
    assert "--toy_config.train.steps=7 (int, default 1000): " in printed


def test_a_program_refuses_before_any_work(files, tmp_path):
    run = f"--config={files}/none.py --topology=v5e:4x4"
    cases = {
        "--set=train.steps=5": "error: --set=train.steps=5: write --config.train.steps=5\n",
        f"{run} --set a.b=c": "error: --set=a.b=c: write --config.a.b=c\n",
        f"{run} --config.train.steps=5 --config.train.steps 6": "train.steps: given twice",
        f"{run} --config.train.stepz=5": "did you mean train.steps?",
        f"{run} --config.train.steps": "--config.train.steps: needs a value",
        f"{run} --config.data.path=x --confg.train.steps=5": "confg.train.steps",
        f"--config={files}/none.py:x --topology=v5e:4x4": "get_config() takes no argument",
        f"{run} --flagfile=nowhere": "nowhere",
    }
    refused("experiments.compile", cases, tmp_path)


def test_preflight_reads_reports_of_both_forms(files, tmp_path):
    report = {
        "fits": True,
        "chips": 4,
        "mesh": {"replica": 1, "fsdp": 4},
        "roofline_step_s": 0.1,
        "mfu_ceiling": 0.5,
        "hbm_bytes_per_chip": {"arguments": 1},
    }
    lines = []
    for name, start in (("former", "--set="), ("present", "--config."), ("bare", None)):
        settings = [f"{start}data.batch_size=8", f"{start}model.remat=full"] if start else []
        (tmp_path / name).write_text(json.dumps(report | {"settings": settings}))
        line = f"--config={files}/one.py:{name} --compiled={tmp_path / name} --workdir=w"
        lines.append(f"{line} --probe_mib=1 --config.train.steps=36000")
    former, present, bare = outcomes("experiments.preflight", lines, tmp_path)
    assert (former[0], present[0], bare[0]) == (0, 0, 0), (former, present, bare)
    line = "compiled         with data.batch_size=8, model.remat=full"
    assert line in former[1].splitlines()
    assert line in present[1].splitlines()
    assert "compiled  " not in bare[1]
    assert "36,000 steps" in present[1]


# Imports what all programs share, and runs each in a fork of that: most time goes into imports.
HELP = """
import json, os, runpy, sys, traceback
import jax, experiments.common, gpst_jax.training.loop, gpst_jax.evaluation.suite
for number, name in enumerate(json.loads(sys.argv[1])):
    sys.stdout.flush()
    if os.fork() == 0:
        os.dup2(os.open(f"{sys.argv[2]}/{name}", os.O_WRONLY | os.O_CREAT), 1)
        sys.argv = [name, "--help"]
        code = 1
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        os._exit(code)
    if os.wait()[1]:
        sys.exit(f"{name} --help failed")
"""


@pytest.mark.slow
def test_the_help_of_every_program_has_its_own_flags_first(tmp_path):
    programs = [
        f"{package}.{path.stem}"
        for package in ("data_pipeline", "experiments")
        for path in sorted((ROOT / package).glob("*.py"))
        if doc_check.is_program(f"{package}.{path.stem}")
    ]
    assert len(programs) > 20
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(programs), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in programs:
        text = (tmp_path / name).read_text()
        shown = text.partition("\nflags:\n")[2]
        assert shown.split()[0] == f"{doc_check.module(name)}:", name
        for flag in doc_check.own_flags(name):
            assert f"--{flag}:" in shown or f"--[no]{flag}:" in shown, f"{name} --{flag}"
    shown = (tmp_path / "experiments.preflight").read_text()
    assert "--config.help lists them all" in " ".join(shown.split())
    assert "--workdir:" in shown
