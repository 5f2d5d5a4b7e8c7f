"""The watchdog: stacks when a step hangs, an end when it hangs for good."""

import subprocess
import sys
import time

from data_pipeline.runtime import exit_codes
from gpst_jax.training.supervision import Watchdog


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_step_that_hangs_prints_stacks_once(tmp_path):
    with (tmp_path / "stacks").open("w") as file:
        watchdog = Watchdog(factor=5, minimum_s=0.2, abort_s=0, file=file)
        for _ in range(5):
            watchdog.beat()
        written = (tmp_path / "stacks").read_text
        wait_for(written)
        text = written()
        assert "wait_for" in text  # this thread's stack
        time.sleep(0.5)
        assert written() == text
        watchdog.beat()  # the clock runs again
        wait_for(lambda: written() != text)
        watchdog.close()


def test_pauses_and_the_first_step_are_no_hang(tmp_path):
    with (tmp_path / "stacks").open("w") as file:
        watchdog = Watchdog(factor=5, minimum_s=0.5, abort_s=0, file=file)
        time.sleep(0.8)  # the first step compiles
        for _ in range(3):
            watchdog.beat()
        watchdog.pause()
        time.sleep(0.8)
        watchdog.beat()
        watchdog.close()
    assert (tmp_path / "stacks").read_text() == ""


def test_a_hang_for_good_ends_the_process():
    code = (
        "import time; from gpst_jax.training.supervision import Watchdog\n"
        "w = Watchdog(5, 0.1, 0.5); w.beat(); w.beat(); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == exit_codes.STALLED
    assert "giving up" in done.stderr
    assert 'File "<string>", line 2' in done.stderr
