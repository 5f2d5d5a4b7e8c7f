"""Command-line programs end the same way: one line for bad input, the exit code of ``main``."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json


def _run_program(body: str) -> subprocess.CompletedProcess[str]:
    program = (
        "from data_pipeline.runtime import cli\n" + textwrap.dedent(body) + "\ncli.run(main)\n"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_user_error_is_one_line_and_exit_code_2() -> None:
    result = _run_program(
        """
        def main(argv):
            from data_pipeline.runtime.errors import UserError
            raise UserError("no file\\n  here")
        """
    )
    assert result.returncode == 2
    assert result.stderr == "error: no file here\n"


@pytest.mark.parametrize(("returned", "code"), [("None", 0), ("0", 0), ("1", 1)])
def test_exit_code_is_what_main_returns(returned: str, code: int) -> None:
    result = _run_program(f"def main(argv):\n    return {returned}")
    assert (result.returncode, result.stderr) == (code, "")


def test_a_bug_keeps_its_traceback() -> None:
    result = _run_program("def main(argv):\n    raise KeyError('bug')")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_write_json_makes_parents_and_leaves_no_temporary_file(tmp_path) -> None:
    path = tmp_path / "a" / "b" / "x.json"
    write_json(path, {"é": [1, 2.5, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": [1, 2.5, None]}
    assert os.listdir(path.parent) == ["x.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path) -> None:
    path = tmp_path / "x.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="nan"):
        write_json(path, float("nan"))
    assert path.read_text() == "1\n"
    assert os.listdir(tmp_path) == ["x.json"]


def test_an_unwritable_path_is_a_user_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_json(tmp_path / "file" / "x.json", 1)
