"""Cases of the suite `generate`: greedy decoding of a batch by ours and by each peer."""

import os
import time
from collections.abc import Callable
from typing import Any

from gpst_jax.benchmarks import traffic
from gpst_jax.benchmarks.workload import Workload

COPY, OURS = "copy", "ours"
ON_REQUEST = "csm_generate"  # slow; runs where `--cases` names it
CASES = (COPY, OURS, "csm_eager", "csm_compile", "musicgen_eager", "musicgen_compile", ON_REQUEST)


def build(case: str, workload: Workload) -> tuple[Any, dict[str, Any]]:
    """The step of a case: one call decodes all frames. And what is known before it runs.

    Returns:
        The step, with `parameters`, `peak_bytes` and, unless it copies, `first_s`, seconds until
        the first frame is on the host, and `rest_s`, those of the last `rest_frames`; and
        `dtype`, `parameters`, `platform`, `rest_frames` and the fields of `traffic` (or `moved`,
        the bytes that a copy moves).
    """
    builders: dict[str, Callable[[Workload], tuple[Any, dict[str, Any]]]] = {
        COPY: _copy,
        OURS: _ours,
    }
    step, info = builders.get(case, lambda work: _peer(case, work))(workload)
    return step, info | {"parameters": step.parameters}


def _peer(case: str, workload: Workload) -> tuple[Any, dict[str, Any]]:
    from gpst_jax.benchmarks import torch_generation

    model, _, mode = case.partition("_")
    made = {
        "csm": torch_generation.CsmDecoding,
        "csm_generate": torch_generation.CsmGenerate,
        "musicgen": torch_generation.MusicgenDecoding,
    }
    kind = made.get(case) or made[model]
    step = kind(workload, compiled=mode == "compile")
    return step, {
        "platform": step.device.type,
        "dtype": str(step.dtype).removeprefix("torch."),
        "traffic": vars(step.traffic()),
        "rest_frames": workload.frames - 1,
    }


def _ours(workload: Workload) -> tuple[Any, dict[str, Any]]:
    from gpst_jax.benchmarks import jax_steps

    device = jax_steps.device_info()
    dtype = "float32" if device["platform"] == "cpu" else "bfloat16"
    step = GPSTDecoding(workload.with_model(dtype=dtype))
    info = {"dtype": dtype, "traffic": vars(step.traffic), "rest_frames": workload.frames // 2}
    return step, device | info


def _copy(workload: Workload) -> tuple[Any, dict[str, Any]]:
    from gpst_jax.benchmarks import jax_steps

    device = jax_steps.device_info()
    cpu = device["platform"] == "cpu"
    step = traffic.HostCopy(len(os.sched_getaffinity(0))) if cpu else DeviceCopy()
    return step, device | {"moved": step.moved}


class GPSTDecoding:
    """Greedy decoding by `gpst_jax.generation`: all units given, T frames, no end.

    Args:
        workload: dimensions and dtype, prompts and frames.

    Attributes:
        first_s: seconds of a call for one frame with the same prompts, run before each call for
            all frames.
        rest_s: seconds of the second half of the frames in the last call.
        parameters: of the model.
        traffic: what a frame reads.
    """

    def __init__(self, workload: Workload):
        import jax

        from gpst_jax.config import GPSTConfig
        from gpst_jax.generation.config import SamplingConfig
        from gpst_jax.generation.gpst_sampler import Decoder
        from gpst_jax.objectives import GPSTObjective

        self._jax, self._workload = jax, workload
        model, layout = workload.config.model_as(GPSTConfig), workload.layout
        params = jax.jit(GPSTObjective(workload.config, layout).init)(jax.random.key(0))
        # As the peers: all weights in the dtype that is computed in.
        params = jax.tree.map(lambda leaf: leaf.astype(model.dtype), params)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        itemsize = jax.numpy.dtype(model.dtype).itemsize
        self.traffic = traffic.of_params(params, layout.num_codebooks, itemsize)
        self._decoder = Decoder(model, layout, params, workload.config.data.positions)
        self._greedy = SamplingConfig(top_k=1)
        self.first_s = self.rest_s = 0.0

    def _decode(self, frames: int) -> None:
        import numpy as np

        from gpst_jax.generation.gpst_sampler import Request

        work, none = self._workload, np.zeros((self._workload.layout.num_codebooks, 0), int)
        self._jax.block_until_ready(self._decoder.weights)
        requests = [
            Request(units, none, min_frames=frames, max_frames=frames, item=row)
            for row, units in enumerate(work.tokens()[0])
        ]
        chunks = self._decoder.stream_batch(
            requests,
            chunk_frames=-(-frames // 2),
            acoustic=self._greedy,
            semantic=self._greedy,
        )
        made = next(chunks)[0].shape[1]
        start = time.perf_counter()
        made += sum(codes[0].shape[1] for codes in chunks)
        self.rest_s = time.perf_counter() - start
        assert made == frames

    def first(self) -> None:
        """Decodes one frame of each row, apart from the calls that are timed."""
        start = time.perf_counter()
        self._decode(1)
        self.first_s = time.perf_counter() - start

    def __call__(self) -> float:
        """Decodes all frames and waits for the codes; returns 0, as nothing is trained."""
        self._decode(self._workload.frames)
        return 0.0

    def peak_bytes(self) -> int | None:
        """Peak device memory; None where the platform has no statistics, as a CPU."""
        return (self._jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


class DeviceCopy:
    """Reads and writes a large array of an accelerator; see `traffic.HostCopy`."""

    parameters = 0

    def __init__(self, megabytes: int = 1024):
        import jax
        import jax.numpy as jnp

        self._jax = jax
        self._source = jnp.zeros(megabytes * 2**20 // 4, jnp.float32)
        self._copy = jax.jit(lambda x: x + 1.0)  # a plain copy may be left out by the compiler
        self.moved = 2 * self._source.nbytes

    def __call__(self) -> float:
        """Copies once and waits."""
        self._jax.block_until_ready(self._copy(self._source))
        return 0.0

    def peak_bytes(self) -> int | None:
        """Not measured."""
        return None
