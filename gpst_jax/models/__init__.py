"""The networks: the only place with `nnx.Module`. Losses are in `objectives`."""

from typing import Any

Params = Any  # nested dict of arrays, as `nnx.split` gives it
