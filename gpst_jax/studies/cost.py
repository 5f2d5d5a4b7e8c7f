"""What a study costs on any machine: training FLOPs, which no clock measures."""

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import GPSTConfig, RunConfig
from gpst_jax.objectives import GPSTObjective


def flops_per_step(config: RunConfig, layout: TokenLayout) -> float | None:
    """Training FLOPs of one step, as the objective counts them; None for models without a count.

    Args:
        config: of the run.
        layout: of its dataset.
    """
    if not isinstance(config.model, GPSTConfig):
        return None
    return float(sum(GPSTObjective(config, layout).flops().values()))


def training_flops(config: RunConfig, layout: TokenLayout) -> float | None:
    """Training FLOPs of a whole run; None for models without a count."""
    per_step = flops_per_step(config, layout)
    return None if per_step is None else per_step * config.train.steps


def steps_for(flops: float, config: RunConfig, layout: TokenLayout) -> int:
    """Steps that a number of training FLOPs allows, at least one.

    Raises:
        ValueError: models of this family have no count.
    """
    per_step = flops_per_step(config, layout)
    if per_step is None:
        raise ValueError(f"no count of FLOPs for models of family {config.model.family!r}")
    return max(1, round(flops / per_step))
