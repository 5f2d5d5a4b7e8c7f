"""Activations of the feed-forward part; for TPUs with derivatives that keep only their inputs.

In a rematerialised layer the compiler shares what the recomputed activation and its derivative have
in common, and stores it, in float32 at the hidden width: the largest arrays of the backward pass.
So on TPUs the derivatives are written in other functions than the activations, equal to rounding,
and each is fused into the products around it.
"""

import jax
import jax.numpy as jnp

from gpst_jax.models import attention


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU (arXiv 1606.08415), x P(X <= x) for a standard normal X: (...) to (...)."""
    return gelu_of_input(x) if attention.compiled_for() == "tpu" else _gelu(x)


def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """SiLU of the gate times `up` (arXiv 2002.05202): two (...) to (...)."""
    return swiglu_of_inputs(gate, up) if attention.compiled_for() == "tpu" else _swiglu(gate, up)


def _gelu(x):
    return jax.nn.gelu(x, approximate=False)


def _swiglu(gate, up):
    return jax.nn.silu(gate) * up


@jax.custom_vjp
def gelu_of_input(x: jax.Array) -> jax.Array:
    """`gelu`, whose backward pass keeps its input."""
    return _gelu(x)


def _gelu_forward(x):
    return _gelu(x), x


def _gelu_backward(x, grad):
    wide = x.astype(jnp.float32)
    below = 0.5 + 0.5 * jax.lax.erf(wide * 0.5**0.5)  # `jax.nn.gelu` takes erfc
    density = jnp.exp(-0.5 * wide * wide) * (2.0 * jnp.pi) ** -0.5
    return ((grad.astype(jnp.float32) * (below + wide * density)).astype(x.dtype),)


gelu_of_input.defvjp(_gelu_forward, _gelu_backward)


@jax.custom_vjp
def swiglu_of_inputs(gate: jax.Array, up: jax.Array) -> jax.Array:
    """`swiglu`, whose backward pass keeps its inputs."""
    return _swiglu(gate, up)


def _swiglu_forward(gate, up):
    return _swiglu(gate, up), (gate, up)


def _swiglu_backward(inputs, grad):
    gate, up = (x.astype(jnp.float32) for x in inputs)
    wide = grad.astype(jnp.float32)
    # `jax.nn.silu` takes the logistic function. The smaller exponential keeps both tails exact.
    small = jnp.exp(-jnp.abs(gate))
    sigmoid = jnp.where(gate >= 0, 1.0, small) / (1.0 + small)
    slope = sigmoid * (1.0 + gate * jnp.where(gate >= 0, small, 1.0) / (1.0 + small))
    return (wide * up * slope).astype(grad.dtype), (wide * gate * sigmoid).astype(grad.dtype)


swiglu_of_inputs.defvjp(_swiglu_forward, _swiglu_backward)
