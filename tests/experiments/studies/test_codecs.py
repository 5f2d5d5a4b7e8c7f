"""How the study of codecs reads its list of codecs."""

import subprocess
import sys

import programs

PROGRAM = """
from data_pipeline.runtime.errors import UserError
from experiments.studies import codecs

print(codecs._parsed("world_rvq:8x1024"))
print(codecs._parsed("world_rvq:4x1024@100"))
for text in ("opus:8x1024", "world_rvq:8x", "world_rvq:8x1024@", "world_rvq:8x1024@fast"):
    try:
        codecs._parsed(text)
    except UserError as error:
        assert repr(text) in str(error) and "KIND:CODEBOOKSxCODES@FRAMES" in str(error), error
    else:
        raise AssertionError(text)
"""


def test_a_codec_has_a_kind_sizes_and_perhaps_a_frame_rate(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=programs.environment(),
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "('world_rvq_8x1024', ('world_rvq', 8, 1024, ''))",
        "('world_rvq_4x1024_100hz', ('world_rvq', 4, 1024, '100'))",
    ]
