"""A run so small that it compiles in a second: objective, loader and configuration."""

import dataclasses

import jax
import jax.experimental.compilation_cache.compilation_cache
import jax.numpy as jnp
import numpy as np
import pytest

from gpst_jax.config import (
    DataConfig,
    GPSTConfig,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    TransformerConfig,
)

VOCABULARY, WIDTH, LAYERS, LENGTH = 16, 8, 2, 4
PLAN = "plan-a"


@pytest.fixture(scope="module")
def compile_once(tmp_path_factory):
    """Equal programs are compiled once for all tests of a file."""
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
        self.row, self.skipped = 0, []
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
        self.row = self._beyond(self.row + self.rows)
        return {"tokens": tokens, "targets": targets, "gain": gain}

    def _beyond(self, row):
        for first, end in self.skipped:
            row = end if first <= row < end else row
        return row

    def skip(self, first, end):
        """Whole batches only, which is enough here."""
        assert first % self.rows == end % self.rows == 0
        if [first, end] not in self.skipped:
            self.skipped = sorted([*self.skipped, [first, end]])
        self.row = self._beyond(self.row)

    def get_state(self):
        return {"row": self.row, "plan": self.plan, "skipped": self.skipped}

    def set_state(self, state):
        assert state["plan"] == self.plan
        self.row, self.skipped = state["row"], state["skipped"]


def toy_config(rows: int = 8, mesh: MeshConfig | None = None, **sections) -> RunConfig:
    """A run of the toy; keyword arguments `train` and `optimizer` are dicts of fields."""
    net = TransformerConfig(d_model=WIDTH, num_layers=LAYERS, num_heads=1, d_ff=2 * WIDTH)
    train = {"steps": 6, "log_every": 1, "eval_every": 0, "eval_batches": 0}
    # A schedule that does not depend on the number of steps: the compiled step is shared.
    optimizer = {"learning_rate": 1e-2, "warmup_steps": 2, "schedule": "inverse_sqrt"}
    return RunConfig(
        name="toy",
        model=GPSTConfig(global_net=net, local_net=net),
        data=DataConfig(batch_size=rows),
        optimizer=OptimizerConfig(**(optimizer | sections.get("optimizer", {}))),
        train=TrainConfig(**(train | sections.get("train", {}))),
        mesh=mesh or MeshConfig(replica=1, fsdp=1, tensor=1),
    )


def with_train(config: RunConfig, **fields) -> RunConfig:
    """The same run with other fields of its train section."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **fields))


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
