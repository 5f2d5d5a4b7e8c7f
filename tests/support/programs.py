"""Programs run as users run them: started, watched, and ended with their test.

All programs of a session share one compilation cache, also between the workers of pytest-xdist:
`tests/conftest.py` opens it. Programs that are compared with each other must run with equal flags.
"""

import os
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Tests compile far more than they compute.
XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
_CACHE = "GPST_TEST_CACHE"


def open_cache() -> None:
    """Makes the cache of this session; worker processes inherit it."""
    os.environ[_CACHE] = tempfile.mkdtemp(prefix="gpst-compiled-")


def remove_cache() -> None:
    """Removes what `open_cache` made."""
    shutil.rmtree(os.environ.pop(_CACHE), ignore_errors=True)


def environment(**extra: str) -> dict[str, str]:
    """The environment of a program with one CPU device, and `extra` variables."""
    return dict(os.environ) | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": XLA_FLAGS,
        "JAX_COMPILATION_CACHE_DIR": os.environ[_CACHE],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
        **extra,
    }
