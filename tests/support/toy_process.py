"""The toy run in processes of its own, which tests may kill; a start costs a second.

They are forked from a server that has imported everything and computed nothing.
"""

import asyncio
import dataclasses
import logging
import multiprocessing
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import tensorstore
from orbax.checkpoint._src.serialization import tensorstore_utils
from programs import XLA_FLAGS
from toy_run import ToyLoader, ToyObjective, toy_config

from data_pipeline.runtime import buckets, exit_codes, libraries
from data_pipeline.runtime.endings import ending, one_line
from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints import stored_arrays
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.checkpoints.storage import StorageError
from gpst_jax.config import MeshConfig
from gpst_jax.parallel import multihost
from gpst_jax.training import loop

ROOT = Path(__file__).resolve().parents[2]
ROWS = 8


@dataclasses.dataclass(frozen=True)
class Process:
    """A run that has been started.

    Attributes:
        process: to be killed or joined.
        log: file of what it prints.
    """

    process: Any
    log: Path

    def end(self, timeout: float = 280) -> int:
        """Its exit code; -9 after a kill."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, self.text()
        return self.process.exitcode

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")


def start(workdir: str, environment: Mapping[str, str], log: Path, **options: Any) -> Process:
    """Starts the run; `options` are those of `train`."""
    paths = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))  # of the server
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([Path(__file__).stem])
    arguments = (str(workdir), dict(environment), str(log))
    process = context.Process(target=_main, args=arguments, kwargs=options, daemon=True)
    log.write_text("")
    process.start()
    return Process(process, log)


class _Part(ToyLoader):
    """The rows of this process."""

    def __next__(self) -> dict[str, Any]:
        size, number = self.rows // jax.process_count(), jax.process_index()
        mine = slice(number * size, (number + 1) * size)
        return {name: array[mine] for name, array in super().__next__().items()}


def train(
    workdir: str, steps: int, every: int, processes: int = 1, number: int = 0, port: int = 0
) -> None:
    """Trains the toy with one device in each process.

    Args:
        workdir: of the run.
        steps: to train.
        every: so many steps a checkpoint is saved.
        processes: of the run.
        number: of this process.
        port: of the coordinator.
    """
    if processes == 1:  # several would wait for each other to compile
        jax.config.update("jax_compilation_cache_dir", os.environ["GPST_TEST_CACHE"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    else:
        multihost.connect(
            f"localhost:{port}", processes, number, connect_seconds=60, heartbeat_seconds=10
        )
    mesh = MeshConfig(replica=1, fsdp=processes, tensor=1)
    fields = {"steps": steps, "checkpoint_every_steps": every, "keep_latest": 2}
    loop.train(
        toy_config(ROWS, mesh, train=fields),
        ToyObjective(ROWS, noise=0.1),
        {"train": _Part(ROWS)}.get,
        workdir,
        dataset={"fingerprint": "toy"},
    )


def _main(
    workdir: str, environment: Mapping[str, str], log: str, patient: bool = True, **options: Any
) -> None:
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1) for fd in (1, 2))
    os.environ.update(environment)
    os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} --xla_force_host_platform_device_count=1"
    os.environ["NPROC"] = "16"  # threads of collectives: with the cores' number they can starve
    libraries.quieten()
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("gpst_jax").setLevel(logging.INFO)
    if not patient:
        _hurry()
    code = exit_codes.DEFECT
    try:
        train(workdir, **options)
        code = exit_codes.OK
    except StorageError as error:
        code = exit_codes.STORAGE
        print(f"\nerror: {one_line(error)}", flush=True)
    except Exception as error:  # as programs do
        unusable = isinstance(error, CheckpointError)
        end = ending(UserError(str(error)) if unusable else error)
        if end is None:
            raise
        code = end[0]
        print(f"\nerror: {end[1]}", flush=True)
    finally:
        if code == exit_codes.DEFECT:
            traceback.print_exc()
        os._exit(code)


def _hurry() -> None:
    """Waits for a bucket not for minutes but for a moment, as often as otherwise or less."""
    sleep = asyncio.sleep

    async def moment(seconds: float, *rest: Any) -> Any:
        return await sleep(min(seconds, 0.02), *rest)

    asyncio.sleep = moment  # between the tries of gcsfs
    buckets._SILENT_SECONDS = 1
    retries = {"max_retries": 6, "initial_delay": "20ms", "max_delay": "20ms"}
    for context in (
        tensorstore_utils._BASE_TS_CONTEXT,
        tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT,
    ):
        context["gcs_request_retries"] = retries
    patient = stored_arrays.context()
    stored_arrays.context = lambda: tensorstore.Context({"gcs_request_retries": retries}, patient)
