"""The loss of every codebook pattern counts the same predictions."""

import jax
import numpy as np
import pytest

from data_pipeline.tokens import TokenLayout, segment_tokens
from gpst_jax.config import ConfigError, DataConfig, GPSTConfig, RunConfig, TransformerConfig
from gpst_jax.objectives import GPSTObjective

LAYOUT = TokenLayout(num_units=11, num_codebooks=3, codebook_size=5, unit_rate=50, frame_rate=75)
NETS = TransformerConfig(16, 2, 2, 24), TransformerConfig(8, 1, 2, 12)
PATTERNS = ("hierarchical", "flat", "delay", "parallel")


def _objective(pattern, block="modern", max_positions=200, **data):
    positions = "time" if block == "modern" else "running"
    fields = {"batch_size": 2, "sequence_length": 48, "frame_budget": 32, "crop_seconds": 0.3}
    model = GPSTConfig(*NETS, pattern=pattern, block=block, max_positions=max_positions)
    data = DataConfig(positions=positions, **(fields | data))
    return GPSTObjective(RunConfig("toy", model, data), LAYOUT)


def test_every_pattern_counts_the_same_predictions(pack_rows, random_part, random_params):
    rng = np.random.default_rng(0)
    rows = [
        [segment_tokens(LAYOUT, [random_part(LAYOUT, rng, *size)]) for size in sizes]
        for sizes in (((4, 6), (5, 8), (3, 4)), ((9, 14),))
    ]
    batch, counts = pack_rows(rows, 48, 32), []
    for pattern in PATTERNS:
        objective = _objective(pattern)
        params = random_params(objective.model_config, LAYOUT)
        weights = objective.weights(batch)
        loss, metrics = jax.jit(objective.loss, static_argnums=4)(
            params, batch, jax.random.key(0), weights, True
        )
        counts.append(
            {name: float(count) for name, (_, count) in metrics.items()}
            | {f"weight_{name}": float(value) for name, value in weights.items()}
        )
        nll = {name: float(total) for name, (total, _) in metrics.items()}
        by_codebook = sum(nll[f"nll_acoustic_q{q}"] for q in range(3))
        assert by_codebook == pytest.approx(nll["nll_acoustic"], rel=1e-5)
        wanted = nll["nll_semantic"] / counts[-1]["nll_semantic"]
        wanted += nll["nll_acoustic"] / counts[-1]["nll_acoustic"]
        assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert counts[0]["nll_acoustic"] == 3 * sum(frames + 1 for frames in (6, 8, 4, 14))
    assert all(other == counts[0] for other in counts[1:])


def test_flops_follow_the_positions_of_the_pattern():
    flops = {name: _objective(name).flops() for name in PATTERNS}
    # 48 positions and 2 x 32 codes beyond the first of each frame, in whole tiles of 128.
    assert flops["flat"]["global"] == flops["parallel"]["global"] * 128 / 48
    assert flops["flat"]["global_attention"] == pytest.approx(
        flops["parallel"]["global_attention"] * (128 / 48) ** 2
    )
    assert flops["delay"] == flops["parallel"]
    for name in PATTERNS:
        assert flops[name]["semantic_head"] == flops["hierarchical"]["semantic_head"]
        assert ("local" in flops[name]) == (name == "hierarchical")
    assert flops["delay"]["acoustic_head"] == 2 * flops["hierarchical"]["acoustic_head"]


@pytest.mark.parametrize(
    ("pattern", "needed"), [("hierarchical", 40), ("flat", 88), ("delay", 42), ("parallel", 40)]
)
def test_the_table_of_positions_must_hold_the_longest_segment(pattern, needed):
    """0.3 s: 15 units, 23 frames and their end, and BOS_s."""
    _objective(pattern, "paper", needed)
    with pytest.raises(ConfigError, match=f"max_positions.*needs {needed}"):
        _objective(pattern, "paper", needed - 1)
