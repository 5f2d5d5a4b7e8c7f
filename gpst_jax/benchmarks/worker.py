"""The process of one case, so that cases share neither memory nor thread pools.

Started by gpst_jax/benchmarks/suite.py. Requests and replies are lines of JSON on standard input
and output: first `{"suite", "case", "workload"}`, then any number of `{"steps": n}`. A reply with
`error` ends the process. Output of libraries goes to standard error.
"""

import json
import os
import resource
import sys
import time
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.benchmarks import generate_cases
from gpst_jax.benchmarks.workload import Workload


def main() -> None:
    """Serves requests from standard input until it closes."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        request = json.loads(sys.stdin.readline())
        workload = Workload.from_json(request["workload"])
        _limit_threads(workload.threads)
        began = time.perf_counter()
        step, info = build(request["suite"], request["case"], workload)
        warm = getattr(step, "warm", step)
        loss = warm()
        warm()
        if hasattr(step, "first"):
            step.first()
        reply(info | {"build_s": time.perf_counter() - began, "loss": loss})
        for line in sys.stdin:
            seconds, processor, firsts, rests = [], [], [], []
            for _ in range(json.loads(line)["steps"]):
                if hasattr(step, "first"):
                    step.first()
                cpu, start = time.process_time(), time.perf_counter()
                step()
                seconds.append(time.perf_counter() - start)
                processor.append(time.process_time() - cpu)
                firsts.append(getattr(step, "first_s", 0.0))
                rests.append(getattr(step, "rest_s", 0.0))
            times = {"seconds": seconds, "cpu_seconds": processor, "first_seconds": firsts}
            reply(times | {"rest_seconds": rests, "memory": _peak_bytes(step)})
    except Exception as error:
        # Any exception of a library, out of memory included, is the result of this case.
        reply({"error": _describe(error)})
        if not isinstance(error, UserError):
            raise


def build(suite: str, case: str, workload: Workload) -> tuple[Any, dict[str, Any]]:
    """The step of a case, and its `parameters`, `flops`, device and threads."""
    if suite == "generate":
        step, info = generate_cases.build(case, workload)
    elif case.startswith("torch"):
        step, info = _build_torch(case, workload)
    else:
        step, info = _build_jax(case, workload)
    info["threads"] = len(os.sched_getaffinity(0))
    return step, info


def _build_jax(case: str, workload: Workload) -> tuple[Any, dict[str, Any]]:
    from gpst_jax.benchmarks import jax_steps

    device = jax_steps.device_info()
    cpu = device["platform"] == "cpu"
    workload = workload.with_model(dtype="float32" if cpu else "bfloat16")
    dtype = workload.config.model.dtype
    if case == "matmul":
        step: Any = jax_steps.Matmul(2048 if cpu else 8192, dtype)
    elif case in ATTENTION:
        step = jax_steps.Attention(workload, ATTENTION[case])
        device["difference"] = step.difference
    elif case == "flattened":
        step = jax_steps.flattened_step(workload)
    elif case == "flops":
        from gpst_jax.benchmarks import flops

        step, device["counts"] = jax_steps.Nothing(), flops.compare(workload)
    else:
        step = jax_steps.gpst_step(workload.with_model(**VARIANTS[case]))
    return step, device | {"dtype": dtype, "parameters": step.parameters, "flops": step.flops}


def _build_torch(case: str, workload: Workload) -> tuple[Any, dict[str, Any]]:
    from gpst_jax.benchmarks import csm

    cuda = csm.has_cuda()
    workload = workload.with_model(dtype="bfloat16" if cuda else "float32")
    step = csm.CsmStep(workload, compiled=case == "torch_compile")
    info = {
        "platform": "gpu" if cuda else "cpu",
        "dtype": workload.config.model.dtype,
    }
    return step, info | {"parameters": step.parameters, "flops": csm.flops(workload)}


# Variants of our step: changed fields of the model config.
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours_drop_0.5": {"local_drop": 0.5},
    "ours_drop_0.9375": {"local_drop": 15 / 16},
    "ours_remat_dots": {"remat": "dots"},
    "ours_remat_full": {"remat": "full"},
    "ours_remat_none": {"remat": "none"},
    "ours_attention_xla": {"attention": "xla"},
}
# Attention alone: its implementation.
ATTENTION = {"attention_xla": "xla", "attention_cudnn": "cudnn"}


def _limit_threads(threads: int) -> None:
    """Sets the CPU affinity before XLA or torch size their thread pools by it."""
    if threads:
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:threads])


def _peak_bytes(step: Any) -> int:
    """Peak device memory; on a CPU peak RSS of the process, libraries and compiler included."""
    peak = step.peak_bytes()
    return peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}"


if __name__ == "__main__":
    main()
