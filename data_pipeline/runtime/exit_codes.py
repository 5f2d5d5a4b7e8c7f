"""Exit codes of the programs that train, beyond 0 and those of `data_pipeline.runtime.cli`."""

import os

EXIT_STALLED = 70

DIVERGED = 1
STORAGE = os.EX_IOERR  # 74: the disk failed
INTERRUPTED = os.EX_TEMPFAIL  # 75: the state is saved, the same command continues
