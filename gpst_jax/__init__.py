"""Pretraining of hierarchical speech language models in JAX.

jaxlib 0.10.2 sums the rows of some fused products wrongly on CPUs, beyond 32,768 rows of float32
(github.com/jax-ml/jax, issue 39103; 0.10.1 and 0.12 are right). Importing this package keeps that
fusion to single products, which are right and no slower, unless `XLA_FLAGS` says otherwise. It is
without effect where JAX has looked for devices before.
"""

import importlib.metadata
import os

__version__ = "0.1.0"

FUSION_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
SAFE_FUSION = "individual_dot"
_FAULTY = ("0.10.2",)  # only where the flag is known to exist: an unknown one ends the process

_given = os.environ.get("XLA_FLAGS", "")
if importlib.metadata.version("jaxlib") in _FAULTY and FUSION_FLAG not in _given:
    os.environ["XLA_FLAGS"] = f"{_given} {FUSION_FLAG}={SAFE_FUSION}".strip()
