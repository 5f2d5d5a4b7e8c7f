"""Guards fire at the token that their definition names, for each row on its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpst_jax.config import ConfigError
from gpst_jax.generation import guards
from gpst_jax.generation.guards import COLLAPSE, REPETITION, RUNNING, SILENCE, Guards, Thresholds

SILENT = np.array([True, True, False, False])
OFF = Thresholds(repeat=0, loop_repeats=0, longest_loop=1, silence=0, collapse=0)
SETTINGS = {
    "repeat": OFF._replace(repeat=3),
    "loops": OFF._replace(loop_repeats=2, longest_loop=4),
    "silence": OFF._replace(silence=3),
    "collapse": OFF._replace(collapse=4),
    "all": Thresholds(repeat=4, loop_repeats=3, longest_loop=3, silence=4, collapse=5),
    "off": OFF,
}


def _fired(thresholds: Thresholds, tokens: np.ndarray) -> np.ndarray:
    """What fires at each token of (B, n, depth), whatever fired before: (B, n)."""

    def step(watch, token):
        watch, fired = guards.observe(thresholds, watch, token, SILENT)
        return watch, fired

    start = guards.watch(thresholds, len(tokens), tokens.shape[2])
    steps = jnp.asarray(tokens.swapaxes(0, 1), jnp.int32)
    return np.asarray(jax.jit(lambda: jax.lax.scan(step, start, steps)[1])()).T


def _expected(thresholds: Thresholds, tokens: list[tuple[int, ...]]) -> int:
    """What the definition says after these tokens."""

    def lasting(holds) -> int:
        count = 0
        while count < len(tokens) and holds(tokens[-1 - count]):
            count += 1
        return count

    last = tokens[-1]
    silent = bool(SILENT[last[0]])
    if thresholds.repeat and not silent and lasting(lambda t: t == last) >= thresholds.repeat:
        return REPETITION
    if thresholds.loop_repeats:
        for size in range(2, thresholds.longest_loop + 1):
            stretch = tokens[-size * thresholds.loop_repeats :]
            loop = tokens[-size:]
            whole = len(stretch) == size * thresholds.loop_repeats
            if whole and len(set(loop)) > 1 and stretch == loop * thresholds.loop_repeats:
                return REPETITION
    if thresholds.silence and lasting(lambda t: SILENT[t[0]]) >= thresholds.silence:
        return SILENCE
    same_code = lasting(lambda t: t[0] == last[0])
    if thresholds.collapse and not silent and same_code >= thresholds.collapse:
        return COLLAPSE
    return RUNNING


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("depth", [1, 2])
def test_guards_fire_as_defined(name, depth):
    random = np.random.default_rng(depth)
    tokens = random.integers(0, [4, 2][:depth], (64, 40, depth))
    tokens[::2] = tokens[::2] // 2 * 2  # half of the rows have fewer tokens, which repeat sooner
    fired = _fired(SETTINGS[name], tokens)
    wanted = [
        [_expected(SETTINGS[name], list(map(tuple, row[: end + 1]))) for end in range(len(row))]
        for row in tokens.tolist()
    ]
    np.testing.assert_array_equal(fired, wanted)
    assert (fired != RUNNING).any() == (name != "off")


def test_durations_are_those_of_the_stream():
    thresholds = Guards(repeat_seconds=1, silence_seconds=2, collapse_seconds=1.5).at(75, 8)
    assert (thresholds.repeat, thresholds.silence, thresholds.collapse) == (75, 150, 112)
    assert Guards().at(50).collapse == 0  # one id cannot collapse otherwise than repeat
    off = Guards(0, 0, 0, 0, 0).at(50, 8)
    assert (off.repeat, off.loop_repeats, off.silence, off.collapse) == (0, 0, 0, 0)


def test_negative_durations_are_refused():
    with pytest.raises(ConfigError, match="silence_seconds must not be negative"):
        Guards(silence_seconds=-1)
