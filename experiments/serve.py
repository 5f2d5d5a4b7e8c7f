"""Serves a page on which a model makes speech: record or upload, choose a mode, hear the result.

    python -m experiments.serve --workdir=RUN [--lm_workdir=LM_RUN] [--port=7860]

RUN and LM_RUN are as of `experiments.generate` (docs/generate.md), and may be in a bucket. The page
is for this machine only unless --host says otherwise. Visitors queue: the model makes one piece of
speech at a time. Nothing is sent anywhere, and files of visitors are removed when the program ends.
"""

import contextlib
import signal
import socket
import tempfile
import threading
from pathlib import Path

from absl import flags

from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import NotReadyError, UserError
from data_pipeline.runtime.flag_rules import may_be_in_buckets
from experiments import sampling_flags
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.config import ConfigError
from gpst_jax.evaluation.metrics import optional_packages
from gpst_jax.serving import page
from gpst_jax.serving.examples import Example, find_examples
from gpst_jax.synthesis.models import Model, open_model
from gpst_jax.synthesis.synthesizer import Synthesizer

_LOOPBACK = "127.0.0.1"
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of a run or its export, as of experiments.generate.", required=True
)
_LM_WORKDIR = flags.DEFINE_string(
    "lm_workdir", None, "Directory of the language model's run or export, for tts and dialogue."
)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint of --workdir; default: the newest.", 0)
_DATASET = flags.DEFINE_string(
    "dataset", None, "Dataset, or copy of its dataset.json and tokenizers; default: the run's."
)
_HOST = flags.DEFINE_string("host", _LOOPBACK, "Address to listen on; default: this machine only.")
_PORT = flags.DEFINE_integer("port", 7860, "Port to listen on; 0: any that is free.", 0, 65535)
_UPLOAD = flags.DEFINE_float("max_upload_mb", 20.0, "Largest file that is taken, in MB.", 0.001)
may_be_in_buckets("workdir", "lm_workdir", "dataset")
flags.adopt_module_key_flags(sampling_flags)


def main(argv: list[str]) -> int:
    """Serves until a signal ends it; returns the exit code."""
    del argv
    optional_packages.require("experiments.serve", {"gradio": "gradio"}, "serve")
    port = free_port(_HOST.value, _PORT.value)
    with tempfile.TemporaryDirectory(prefix="gpst-page-") as folder, _until_signal() as ended:
        page.prepare_environment(Path(folder))
        try:
            model = open_model(_WORKDIR.value, _STEP.value, _DATASET.value)
            family = model.loaded.config.model.family
            sampling_flags.check_family(family, _WORKDIR.value)
            lm_workdir = _LM_WORKDIR.value
            language = open_model(lm_workdir, flag="lm_workdir") if lm_workdir else None
            synthesizer = Synthesizer(model, language, sampling_flags.synthesis(family))
        except (CheckpointError, ConfigError) as error:
            raise UserError(str(error)) from error
        examples, note = _examples(model, Path(folder))
        title = f"Speech by {model.loaded.config.name}, step {model.loaded.step}"
        blocks = page.build_page(synthesizer, title, examples, note)
        page.launch(blocks, _HOST.value, port, _UPLOAD.value)
        if _HOST.value not in (_LOOPBACK, "localhost", "::1"):
            print(f"warning: --host={_HOST.value}: whoever reaches this machine can use the page")
        name = f"[{_HOST.value}]" if ":" in _HOST.value else _HOST.value
        print(f"page: http://{name}:{port}", flush=True)
        ended.wait()
        blocks.close(verbose=False)
    print("ended")
    return exit_codes.INTERRUPTED


def free_port(host: str, port: int) -> int:
    """The port, or any free one for 0.

    Raises:
        NotReadyError: it is in use.
        UserError: the host is not an address of this machine.
    """
    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            return trial.getsockname()[1]
    except socket.gaierror as error:
        raise UserError(f"--host={host}: no address: {error.strerror}") from error
    except PermissionError as error:
        raise UserError(f"--port={port}: not allowed: give one above 1023") from error
    except OSError as error:
        raise NotReadyError(
            f"--port={port}: cannot be used on {host} ({error.strerror}): give another"
        ) from error


def _examples(model: Model, folder: Path) -> tuple[list[Example], str]:
    """Examples, and what the page says where there are none."""
    path = _DATASET.value or model.loaded.config.data.path
    try:
        if path:
            return find_examples(path, folder), ""
        reason = "the model names no dataset"
    except UserError as error:
        reason = str(error)
    print(f"no examples: {reason}")
    return [], "The recordings of the corpus are not at hand: upload or record your own."


@contextlib.contextmanager
def _until_signal():
    """An event that SIGTERM and Ctrl-C set; a second one ends the program at once."""
    ended = threading.Event()

    def end(number: int, frame: object) -> None:
        del frame
        ended.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    cli.run(main)
