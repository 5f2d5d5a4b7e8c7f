"""Likelihoods of every codebook pattern are those of its training loss."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from stored_model import make_config, make_dataset, random_params

from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.evaluation.likelihood.gpst import GPSTScorer
from gpst_jax.objectives import make_objective


@pytest.mark.parametrize("pattern", ["flat", "delay", "parallel"])
@pytest.mark.parametrize("block", ["modern", "paper"])
def test_scores_are_the_sums_of_the_training_loss(tmp_path, pattern, block):
    spec = make_dataset(tmp_path / "dataset", 2)
    config = make_config(tmp_path / "dataset", block, pattern=pattern)
    config = config.override(["model.max_positions=130"])
    params, rng = random_params(config, spec), np.random.default_rng(0)
    dataset = json.loads(json.dumps(dataclasses.asdict(spec)))
    scorer = GPSTScorer(Loaded(params, config, dataset, 4, "GPSTObjective"))
    items = [(rng.integers(12, size=n), rng.integers(8, size=(2, 2 * n))) for n in (5, 8, 1)]
    scores = dict(scorer.score(items))

    objective = make_objective(config, spec, tmp_path / "dataset")
    rows = [scorer.row(item, scorer.shape(items[1])) for item in items]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    _, metrics = jax.jit(objective.loss, static_argnums=4)(
        params, batch, jax.random.key(0), objective.weights(batch), False
    )
    for stream in scorer.streams:
        found = sum(score.nats[stream] for score in scores.values())
        count = sum(score.tokens[stream] for score in scores.values())
        wanted = [float(value) for value in metrics[f"nll_{stream}"]]
        assert (found, count) == pytest.approx(wanted, rel=1e-5)
    if block == "paper":
        frames = {"flat": 59, "delay": 118, "parallel": 119}[pattern]
        fits = np.arange(9), np.zeros((2, frames), int)
        assert scorer.refusal(fits) is None
        longer = np.arange(10), np.zeros((2, frames), int)
        assert "the model has 130" in (scorer.refusal(longer) or "")
