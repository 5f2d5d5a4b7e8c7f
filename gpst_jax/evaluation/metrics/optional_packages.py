"""Optional packages: checks in advance, with one line on what to install."""

import importlib.metadata
import importlib.util

from data_pipeline.runtime.errors import UserError


def require(purpose: str, modules: dict[str, str], extra: str = "eval") -> None:
    """Checks that optional packages can be imported, without importing them.

    Args:
        purpose: what needs them, for the message.
        modules: import name -> distribution name on the package index.
        extra: the extra of this project that installs them; "" where none does.

    Raises:
        UserError: naming every missing package and the command that installs them.
    """
    missing = sorted(
        dist for module, dist in modules.items() if importlib.util.find_spec(module) is None
    )
    if missing:
        what = f"'gpst_jax[{extra}]'" if extra else " ".join(missing)
        raise UserError(
            f"{purpose} needs {', '.join(missing)}, not installed here; "
            f"install with: pip install {what}"
        )


def versions(modules: dict[str, str]) -> dict[str, str]:
    """Installed versions by distribution name; a package without metadata reads "unknown"."""
    installed = {}
    for dist in modules.values():
        try:
            installed[dist] = importlib.metadata.version(dist)
        except importlib.metadata.PackageNotFoundError:
            installed[dist] = "unknown"
    return installed
