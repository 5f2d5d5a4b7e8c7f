"""Weights of the codebooks in a loss, written in one field of a configuration."""

import math

from gpst_jax.config.fields import ConfigError, require

_FIELD = "codebook_weights"
_FIRST_OF_MOSHI = 100.0
_MOST_RATIO = 100.0
_SCHEMES = "write uniform, geometric:RATIO, moshi, or one number per codebook such as 4,2,1,1"


def codebook_weights(scheme: str, count: int | None = None) -> list[float] | None:
    """The weights that a scheme gives, with a mean of 1; the loss is a weighted mean.

    Args:
        scheme: `uniform`; `geometric:RATIO`, each weight RATIO times the one before it; `moshi`,
            100 for the first codebook and 1 for each other (arXiv 2410.00037); or numbers
            separated by commas, one per codebook.
        count: codebooks of the dataset; None, where it is not known yet: only the scheme is
            checked.

    Returns:
        One weight per codebook; None where all weights are equal by name.

    Raises:
        ConfigError: the scheme is none of these, or has another number of weights than `count`,
            a weight that is negative or not finite, or no weight above 0.
    """
    if scheme == "uniform":
        return None
    name, _, ratio = scheme.partition(":")
    if name == "geometric":
        factor = _number(ratio, scheme)
        require(
            1 / _MOST_RATIO <= factor <= _MOST_RATIO,
            _FIELD,
            f"the ratio of {scheme!r} must be from {1 / _MOST_RATIO} to {_MOST_RATIO}",
        )
        weights = [factor**codebook for codebook in range(count or 1)]
    elif scheme == "moshi":
        weights = [_FIRST_OF_MOSHI, *[1.0] * ((count or 1) - 1)]
    else:
        weights = [_number(text, scheme) for text in scheme.split(",")]
        require(min(weights) >= 0, _FIELD, f"{scheme!r} has a negative weight")
        require(max(weights) > 0, _FIELD, f"{scheme!r} has no weight above 0")
        require(
            count in (None, len(weights)),
            _FIELD,
            f"{scheme!r} has {len(weights)} weights, the dataset has {count} codebooks",
        )
    return [weight * len(weights) / math.fsum(weights) for weight in weights]


def _number(text: str, scheme: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"config field {_FIELD}: {scheme!r} is no scheme of weights; {_SCHEMES}")
    return value
