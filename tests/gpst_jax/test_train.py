"""The train step and the loop, over a tiny objective: the loop knows no model family."""

import dataclasses
import itertools
import json
import os
import signal

import jax
import jax.experimental.compilation_cache.compilation_cache
import jax.numpy as jnp
import numpy as np
import pytest

from gpst_jax import checkpoint, metrics, sharding, train, train_step
from gpst_jax.config import (
    ConfigError,
    DataConfig,
    GPSTConfig,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    TransformerConfig,
)

VOCABULARY, WIDTH, LAYERS, LENGTH = 16, 8, 2, 4
DATASET = {"fingerprint": "dataset-a"}
PLAN = "plan-a"


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
    """Equal programs are compiled once for all tests of this file."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


class ToyObjective:
    """Predicts a permutation of tokens with two residual layers; names follow the rules table."""

    def __init__(self, rows: int = 8, noise: float = 0.0, frozen: str = ""):
        self.rows, self.noise, self.frozen = rows, noise, frozen

    def init(self, key):
        draws = jax.random.normal(key, (2000,))  # one draw for all: quick to compile

        def normal(i, *shape):
            size = int(np.prod(shape))
            return 0.3 * draws[500 * i : 500 * i + size].reshape(shape)

        return {
            "global": {
                "embed": {"embedding": normal(0, VOCABULARY, WIDTH)},
                "layers": {
                    "mlp_norm": {"scale": jnp.ones((LAYERS, WIDTH))},
                    "mlp": {
                        "up": {"kernel": normal(1, LAYERS, WIDTH, 2 * WIDTH)},
                        "down": {"kernel": normal(2, LAYERS, 2 * WIDTH, WIDTH)},
                    },
                },
            },
            "semantic_head": {"kernel": normal(3, WIDTH, VOCABULARY)},
        }

    def batch_spec(self):
        ids = jax.ShapeDtypeStruct((self.rows, LENGTH), jnp.int32)
        gain = jax.ShapeDtypeStruct((self.rows,), jnp.float32)
        return {"tokens": ids, "targets": ids, "gain": gain}

    def weights(self, batch):
        return {"all": jnp.maximum((batch["targets"] >= 0).sum(), 1).astype(jnp.float32)}

    def loss(self, params, batch, key, weights, train):
        x = params["global"]["embed"]["embedding"][batch["tokens"]]
        if train and self.noise:
            x = x + self.noise * jax.random.normal(key, x.shape)

        def layer(x, weight):
            scaled = x * weight["mlp_norm"]["scale"][None, None]
            inner = jax.nn.gelu(scaled @ weight["mlp"]["up"]["kernel"])
            return x + inner @ weight["mlp"]["down"]["kernel"], None

        x, _ = jax.lax.scan(layer, x, params["global"]["layers"])
        logits = x @ params["semantic_head"]["kernel"]
        mask = batch["targets"] >= 0
        picked = jnp.take_along_axis(
            jax.nn.log_softmax(logits), jnp.maximum(batch["targets"], 0)[..., None], axis=-1
        )
        nll = jnp.where(mask, -picked[..., 0], 0)
        loss = (nll * batch["gain"][:, None]).sum() / weights["all"]
        return loss, {"nll": (nll.sum(), mask.sum())}

    def flops(self):
        return {"all": 1e6}

    def rates(self, batch):
        tokens = (batch["targets"] >= 0).sum()
        return {"tokens": tokens, "audio_seconds": tokens / 50}

    def trainable(self, path):
        return not self.frozen or self.frozen not in path

    def check_dataset(self, spec):
        pass


class ToyLoader:
    """Rows drawn from their number alone; some targets are masked, unevenly over the rows."""

    def __init__(self, rows: int = 8, plan: str = PLAN, gains=None):
        self.rows, self.plan, self.gains = rows, plan, gains or {}
        self.row = 0
        self.before_next = lambda row: None

    def __iter__(self):
        return self

    def __next__(self):
        self.before_next(self.row)
        numbers = range(self.row, self.row + self.rows)
        tokens = np.stack(
            [np.random.default_rng(n).integers(0, VOCABULARY, LENGTH) for n in numbers]
        ).astype(np.int32)
        targets = (5 * tokens + 3) % VOCABULARY
        for index, number in enumerate(numbers):
            targets[index, : number % 3] = -1
        gain = np.array([self.gains.get(n, 1.0) for n in numbers], np.float32)
        self.row += self.rows
        return {"tokens": tokens, "targets": targets, "gain": gain}

    def get_state(self):
        return {"row": self.row, "plan": self.plan, "skipped": []}

    def set_state(self, state):
        assert state["plan"] == self.plan
        self.row = state["row"]


def toy_config(rows: int = 8, mesh: MeshConfig | None = None, **sections) -> RunConfig:
    """A run of the toy; keyword arguments `train` and `optimizer` are dicts of fields."""
    net = TransformerConfig(d_model=WIDTH, num_layers=LAYERS, num_heads=1, d_ff=2 * WIDTH)
    train = {"steps": 6, "log_every": 1, "eval_every": 0, "eval_batches": 0}
    # A schedule that does not depend on the number of steps: the compiled step is shared.
    optimizer = {"learning_rate": 1e-2, "warmup_steps": 2, "schedule": "inverse_sqrt"}
    return RunConfig(
        name="toy",
        model=GPSTConfig(global_net=net, local_net=net),
        data=DataConfig(rows=rows),
        optimizer=OptimizerConfig(**(optimizer | sections.get("optimizer", {}))),
        train=TrainConfig(**(train | sections.get("train", {}))),
        mesh=mesh or MeshConfig(replica=1, fsdp=1, tensor=1),
    )


def with_train(config: RunConfig, **fields) -> RunConfig:
    """The same run with other fields of its train section."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **fields))


# ----------------------------------------------------------------------------------------- steps


def run_steps(objective, config, count=1, devices=None, loader=None):
    """Returns the state (on the host) and the reports of `count` steps from the start."""
    mesh = sharding.make_mesh(config.mesh, devices or jax.devices()[:1])
    loader = loader or ToyLoader(objective.rows)
    reports = []
    with jax.set_mesh(mesh):
        state = train_step.init_state(objective, config, mesh)
        step = train_step.make_train_step(objective, config, mesh)
        for batch in itertools.islice(loader, count):
            batch = jax.device_put(batch, sharding.batch_sharding(mesh))
            state, report = step(state, batch)
            reports.append(jax.device_get(report))
    return state, reports


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def one_device():
    return run_steps(ToyObjective(), toy_config(), 2)


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_meshes_give_the_update_of_one_device(sizes, one_device):
    run = run_steps(ToyObjective(), toy_config(mesh=MeshConfig(*sizes)), 2, jax.devices())
    assert_same_updates(run, one_device)


def test_muon_on_a_mesh_gives_the_update_of_one_device():
    muon = {"name": "muon"}
    one = run_steps(ToyObjective(), toy_config(optimizer=muon))
    config = toy_config(mesh=MeshConfig(1, 2, 4), optimizer=muon)
    assert_same_updates(run_steps(ToyObjective(), config, devices=jax.devices()), one)


def assert_same_updates(run, reference):
    for report, expected in zip(run[1], reference[1], strict=True):
        for name in ("loss", "gradient_norm"):
            assert report.pairs[name][0] == pytest.approx(expected.pairs[name][0], rel=1e-4), name
    assert_trees_close(run[0].params, reference[0].params, atol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_is_sharded_like_its_parameters(name):
    config = toy_config(
        mesh=MeshConfig(1, 4, 2), optimizer={"name": name}, train={"ema_decay": 0.9}
    )
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        state = train_step.init_state(ToyObjective(), config, mesh)
    kernel = state.params["global"]["layers"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.spec == jax.P(None, ("fsdp",), ("tensor",))
    known = {
        sharding.path_string(path): leaf for path, leaf in jax.tree.leaves_with_path(state.params)
    }
    found = 0
    for path, leaf in jax.tree.leaves_with_path((state.opt_state, state.ema)):
        for parameter in (p for n, p in known.items() if sharding.path_string(path).endswith(n)):
            assert leaf.sharding.is_equivalent_to(parameter.sharding, leaf.ndim), path
            assert leaf.shape == parameter.shape
            found += 1
    # AdamW keeps two moments, Muon one for each of the two hidden kernels; the average is one more.
    moments = 2 * len(known) if name == "adamw" else 2 * len(known) - 2
    assert found == moments + len(known)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 2)])
def test_accumulation_equals_the_large_batch(sizes, one_device):
    devices = jax.devices()[: int(np.prod(sizes))]
    config = toy_config(mesh=MeshConfig(*sizes), train={"accumulate": 4})
    state, reports = run_steps(ToyObjective(), config, 2, devices)
    # The masks differ between micro-batches, so means of means would not pass.
    for report, reference in zip(reports, one_device[1], strict=True):
        for name, (total, count) in report.pairs.items():
            assert total == pytest.approx(reference.pairs[name][0], rel=1e-4), name
            assert count == reference.pairs[name][1], name
    assert_trees_close(state.params, one_device[0].params, atol=1e-5)


def test_frozen_parameters_stay_and_have_no_moments():
    objective = ToyObjective(frozen="embedding")
    config = toy_config(optimizer={"weight_decay": 0.5})
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        start = jax.device_get(train_step.init_state(objective, config, mesh).params)
    state, _ = run_steps(objective, config)
    assert_trees_equal(state.params["global"]["embed"], start["global"]["embed"])
    moved = state.params["semantic_head"]["kernel"] != start["semantic_head"]["kernel"]
    assert moved.all()
    paths = [sharding.path_string(path) for path, _ in jax.tree.leaves_with_path(state.opt_state)]
    assert not [path for path in paths if "embedding" in path]


def test_bad_step_changes_nothing_but_its_counters():
    loader = ToyLoader(gains={8: np.nan})  # the second batch
    config = toy_config(train={"ema_decay": 0.9})
    before, _ = run_steps(ToyObjective(), config, 1)
    after, reports = run_steps(ToyObjective(), config, 2, loader=loader)
    assert [bool(report.accepted) for report in reports] == [True, False]
    assert_trees_equal(before.params, after.params)
    assert_trees_equal(before.opt_state, after.opt_state)
    assert_trees_equal(before.ema, after.ema)
    guard = jax.device_get(after.guard)
    assert (int(after.step), int(guard.applied), int(guard.skipped), int(guard.in_row)) == (
        2,
        1,
        1,
        1,
    )


def test_average_follows_the_parameters():
    config = toy_config(train={"ema_decay": 0.9})
    first, _ = run_steps(ToyObjective(), config, 1)
    second, _ = run_steps(ToyObjective(), config, 2)
    decay = 2 / 11  # min(0.9, (1 + t) / (10 + t)) at t = 1
    expected = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, first.ema, second.params)
    assert_trees_close(second.ema, expected, rtol=1e-6)


def test_rows_that_do_not_divide_are_an_error():
    config = toy_config(mesh=MeshConfig(1, 8, 1), train={"accumulate": 2})
    mesh = sharding.make_mesh(config.mesh)
    with pytest.raises(ConfigError, match=r"8 rows .*accumulate=2.* 8 devices.*multiple of 16"):
        train_step.make_train_step(ToyObjective(), config, mesh)


def test_step_lowers_for_devices_that_are_not_here():
    config = toy_config(rows=256, mesh=MeshConfig(2, 64, 2))
    mesh = jax.sharding.AbstractMesh(
        (2, 64, 2), sharding.MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3
    )
    objective = ToyObjective(rows=256)
    with jax.sharding.use_abstract_mesh(mesh):
        step = train_step.make_train_step(objective, config, mesh)
        state = train_step.abstract_state(objective, config, mesh)
        lowered = step.trace(state, objective.batch_spec()).lower(lowering_platforms=("tpu",))
    assert "num_partitions = 256" in lowered.as_text()


# ------------------------------------------------------------------------------------------ loop


def run_train(workdir, config, objective=None, loader=None, valid=None, **options):
    objective = objective or ToyObjective(config.data.rows)
    loader = loader or ToyLoader(config.data.rows)
    return train.train(
        config,
        objective,
        {"train": loader, "valid": valid}.get,
        workdir,
        dataset=options.get("dataset", DATASET),
        devices=options.get("devices", jax.devices()[:1]),
    )


def lines(workdir):
    return metrics.read_metrics(workdir / metrics.METRICS_FILE)


class Stop(Exception):
    """Stands for a crash: nothing is saved on the way out."""


def crash_at(row):
    loader = ToyLoader()

    def before_next(current):
        if current == row:
            raise Stop

    loader.before_next = before_next
    return loader


def interrupt_at(row, number):
    loader = ToyLoader()
    loader.before_next = lambda current: current == row and os.kill(os.getpid(), number)
    return loader


def load(workdir, **options):
    return jax.device_get(checkpoint.load_params(workdir, **options).params)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    config = toy_config(train={"steps": 7, "checkpoint_every_steps": 3, "eval_every": 2})
    config = with_train(config, eval_batches=2, ema_decay=0.9)
    loader = ToyLoader()
    run_train(workdir, config, ToyObjective(noise=0.1), loader, ToyLoader())
    return workdir, config, loader.get_state()


@pytest.mark.parametrize("name", ["crash", "SIGTERM", "SIGINT"])
def test_resume_equals_the_uninterrupted_run(name, uninterrupted, tmp_path):
    whole, config, last_row = uninterrupted
    objective = ToyObjective(noise=0.1)  # so that a wrong key of a step would show
    if name == "crash":  # in step 6, after the checkpoint of step 3
        with pytest.raises(Stop):
            run_train(tmp_path, config, objective, crash_at(40), ToyLoader())
        assert lines(tmp_path)[-1]["step"] >= 4  # lines that the resume must drop
    else:
        loader = interrupt_at(32, getattr(signal, name))
        result = run_train(tmp_path, config, objective, loader, ToyLoader())
        assert result.interrupted
        assert result.steps == 5  # the step in progress ends
    loader = ToyLoader()
    result = run_train(tmp_path, config, objective, loader, ToyLoader())
    assert (result.steps, result.interrupted) == (7, False)
    assert loader.get_state() == last_row
    for average in (False, True):
        assert_trees_equal(load(tmp_path, average=average), load(whole, average=average))

    def comparable(workdir):
        timing = ("time", "perf/")
        return [
            {name: value for name, value in line.items() if not name.startswith(timing)}
            for line in lines(workdir)
        ]

    assert comparable(tmp_path) == comparable(whole)
    steps = [line["step"] for line in lines(tmp_path) if "train/loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert [line["step"] for line in lines(tmp_path) if "eval/loss" in line] == [2, 4, 6, 7]


def test_metrics_and_result(uninterrupted):
    whole, config, _ = uninterrupted
    last = lines(whole)[-2]
    assert {"train/loss", "train/nll", "train/gradient_norm", "train/learning_rate"} <= last.keys()
    assert {"perf/tokens_per_s", "perf/audio_hours_per_s", "perf/data_wait"} <= last.keys()
    assert "perf/mfu" not in last  # no peak is known for a CPU
    # A run that is already finished only reports.
    result = run_train(whole, config, valid=ToyLoader())
    assert result.final["train/loss"] == last["train/loss"]
    assert result.final["eval/nll"] == lines(whole)[-1]["eval/nll"]
    assert result.parameters == 16 * 8 + 2 * 8 + 2 * 2 * 8 * 16 + 8 * 16


def test_loss_falls_and_console_tells_it(tmp_path, caplog):
    config = toy_config(
        optimizer={"learning_rate": 0.03}, train={"steps": 60, "log_every": 20, "eval_every": 30}
    )
    with caplog.at_level("INFO"):
        run_train(tmp_path, with_train(config, eval_batches=1), valid=ToyLoader())
    losses = [line["eval/nll"] for line in lines(tmp_path) if "eval/nll" in line]
    assert losses[1] < losses[0] < np.log(VOCABULARY)
    line = next(m for m in caplog.messages if m.startswith("step 40/60"))
    for part in ("loss", "nll", "lr", "tokens/s", "ETA"):
        assert part in line


def test_evaluation_begins_at_the_same_row_each_time(tmp_path):
    rows = []
    valid = ToyLoader()
    valid.before_next = rows.append
    run_train(
        tmp_path, toy_config(train={"steps": 4, "eval_every": 2, "eval_batches": 2}), valid=valid
    )
    assert rows == [0, 8, 0, 8]


def test_too_many_skipped_steps_stop_the_run(tmp_path):
    gains = dict.fromkeys(range(16, 200), np.inf)
    config = toy_config(optimizer={"max_skipped": 3}, train={"steps": 20})
    with pytest.raises(train.DivergenceError, match="3 steps in a row up to step 5"):
        run_train(tmp_path, config, loader=ToyLoader(gains=gains))
    written = [(line["step"], line["train/skipped_steps"]) for line in lines(tmp_path)]
    assert written == [(1, 0), (2, 0), (3, 1), (4, 2)]
    # A smaller number of bad steps is survived, and leaves no mark on the means.
    gains = dict.fromkeys(range(16, 32), np.inf)
    result = run_train(tmp_path / "b", config, loader=ToyLoader(gains=gains))
    assert result.skipped_steps == 2
    assert np.isfinite(result.final["train/loss"])
    assert "NaN" not in (tmp_path / "b" / metrics.METRICS_FILE).read_text()


def test_resume_refuses_another_dataset_plan_or_model(tmp_path):
    config = toy_config(train={"steps": 1})
    run_train(tmp_path, config)
    longer = with_train(config, steps=2)
    with pytest.raises(checkpoint.CheckpointError, match=r"'dataset-a'.*'dataset-b'"):
        run_train(tmp_path, longer, dataset={"fingerprint": "dataset-b"})
    with pytest.raises(checkpoint.CheckpointError, match=r"'plan-a'.*'plan-b'"):
        run_train(tmp_path, longer, loader=ToyLoader(plan="plan-b"))
    model = dataclasses.replace(config.model, dropout=0.5)
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.dropout"):
        run_train(tmp_path, dataclasses.replace(longer, model=model))
    assert run_train(tmp_path, longer).steps == 2


def test_resume_on_another_mesh_keeps_the_numbers(tmp_path):
    config = toy_config(train={"steps": 2})
    run_train(tmp_path / "a", config)
    run_train(tmp_path / "b", with_train(config, steps=1))
    wide = dataclasses.replace(config, mesh=MeshConfig(1, 4, 2))
    run_train(tmp_path / "b", wide, devices=jax.devices())
    assert_trees_close(load(tmp_path / "b"), load(tmp_path / "a"), atol=1e-5)


def test_batch_of_the_wrong_shape_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"'gain' is \(\(4,\).*expects \(\(8,\)"):
        run_train(tmp_path, toy_config(), loader=ToyLoader(rows=4))


def test_checkpoints_follow_the_clock(tmp_path):
    config = toy_config(train={"steps": 4, "checkpoint_every_minutes": 1e-9, "keep_latest": 9})
    run_train(tmp_path, config)
    assert checkpoint.Checkpoints(tmp_path, writable=False).steps == [1, 2, 3, 4]


def test_failed_background_save_stops_the_run(tmp_path, monkeypatch):
    class Broken:
        def result(self):
            raise OSError("no space left on device")

    def save(self, step, items, record):
        self.wait()
        self._pending = Broken()

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save)
    config = toy_config(train={"steps": 50, "checkpoint_every_steps": 1})
    with pytest.raises(OSError, match="no space left"):
        run_train(tmp_path, config)
    assert lines(tmp_path)[-1]["step"] <= 2


def test_metrics_file_survives_a_line_cut_short(tmp_path):
    config = toy_config(train={"steps": 2, "checkpoint_every_steps": 1})
    run_train(tmp_path, config)
    with (tmp_path / metrics.METRICS_FILE).open("a") as file:
        file.write('{"step": 3, "train/lo')
    run_train(tmp_path, with_train(config, steps=4))
    text = (tmp_path / metrics.METRICS_FILE).read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [1, 2, 3, 4]
