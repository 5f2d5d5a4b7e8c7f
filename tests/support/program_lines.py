"""One program, called with many command lines in one process: most time goes into its imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_DRIVER = """
import contextlib, importlib, io, json, sys
from absl import flags
from data_pipeline.runtime import cli
module = importlib.import_module(sys.argv[1])
getattr(module, "_define_flags", lambda: None)()
found = []
for line in json.load(sys.stdin):
    flags.FLAGS.unparse_flags()
    sys.argv[1:] = line.split()
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            cli.run(module.main)
        except SystemExit as end:
            found.append((end.code, out.getvalue(), error.getvalue()))
print(json.dumps(found))
"""


def outcomes(program: str, lines: list[str], cwd: Path) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of a program for every line of arguments."""
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, program],
        input=json.dumps(lines),
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        text=True,
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(program: str, cases: dict[str, str], cwd: Path) -> None:
    """Every line of arguments, which holds no spaces in words, ends with its message alone."""
    found = outcomes(program, list(cases), cwd)
    for (case, message), (code, printed, error) in zip(cases.items(), found, strict=True):
        assert code == 2, (case, error)
        assert message in error, (case, error)
        assert error.startswith("error: "), (case, error)
        assert error.count("\n") == 1, (case, error)
        assert printed == "", (case, printed)
