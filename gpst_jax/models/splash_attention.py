"""Splash attention on TPU: packed segments without a logits matrix in memory.

The kernel is JAX's own Pallas one (block-sparse flash attention). It sees the arrays of one
device, so under a mesh it runs inside `shard_map`: rows over the data axes, heads over `tensor`.
"""

import functools

import jax
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec

from gpst_jax.parallel.sharding import ACTIVATION_MESH_AXES

LANES = 128  # tile size of the kernel: sequence lengths are multiples of it
RESIDUALS = "splash_residuals"  # saved by name in remat policies, so that the kernel is not rerun
_BLOCK_SIZES = (512, 384, 256, 128)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    causal: bool = True,
    interpret: bool = False,
) -> jax.Array:
    """Attention within segments; see `gpst_jax.models.attention.attend`.

    Args:
        query: (B, L, H, D/H), L a multiple of 128.
        key: (B, L, H_kv, D/H), H_kv a divisor of H.
        value: like `key`.
        segment_ids: (B, L) int32.
        causal: whether a position attends only to itself and earlier ones.
        interpret: runs the kernel in Pallas's interpreter, on any platform: for tests.

    Returns:
        (B, L, H, D/H) in the dtype of `query`.

    Raises:
        ValueError: L is not a multiple of 128.
    """
    if query.shape[1] % LANES:
        raise ValueError(
            f"splash attention needs a sequence length that is a multiple of {LANES}, got "
            f"{query.shape[1]}"
        )
    run = functools.partial(_attend_local, causal=causal, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        rows, heads = ACTIVATION_MESH_AXES["batch"], ACTIVATION_MESH_AXES["heads"]
        if key.shape[2] % mesh.shape[heads]:
            heads = None  # as everywhere: what the mesh does not divide stays unsharded
        spec = PartitionSpec(rows, None, heads, None)
        run = jax.shard_map(
            run,
            in_specs=(spec, spec, spec, PartitionSpec(rows, None)),
            out_specs=spec,
            check_vma=False,
        )
    return run(query, key, value, segment_ids)


def _attend_local(query, key, value, segment_ids, *, causal: bool, interpret: bool):
    """The rows and heads of one device."""
    length, heads = query.shape[1], query.shape[2]
    block = next(size for size in _BLOCK_SIZES if length % size == 0)
    make_mask = splash_attention.CausalMask if causal else splash_attention.FullMask
    kernel = splash_attention.make_splash_mha_single_device(
        splash_attention.MultiHeadMask([make_mask((length, length))] * heads),
        block_sizes=splash_attention.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=block,
            use_fused_bwd_kernel=True,
        ),
        residual_checkpoint_name=RESIDUALS,
        interpret=interpret,
    )
    query = (query * query.shape[-1] ** -0.5).astype(query.dtype)
    heads_first = (x.swapaxes(1, 2) for x in (query, key, value))
    ids = splash_attention.SegmentIds(q=segment_ids, kv=segment_ids)
    return jax.vmap(kernel)(*heads_first, ids).swapaxes(1, 2)
