"""A worker process of the Beam runner `direct`, which ends with the process that started it.

Beam's own worker waits for ever when its launcher is killed. Started as
`python -m data_pipeline.tokenization.beam_worker PARENT`, with the process id of the launcher.
"""

import importlib
import os
import sys
import threading
import time

_POLL_SECONDS = 0.5


def main(argv: list[str]) -> None:
    """Runs Beam's worker until it ends, or its parent does."""
    parent = int(argv.pop(1))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    importlib.import_module("apache_beam.runners.worker.sdk_worker_main").main(argv)


if __name__ == "__main__":
    main(sys.argv)
