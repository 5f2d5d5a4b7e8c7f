"""Sends an exported directory to a model hub, when asked to and when the hub may be reached."""

import os
import re
from typing import Any

from data_pipeline.runtime.errors import UserError

_TRUE = {"1", "on", "yes", "true"}


def check(repository: str) -> None:
    """Raises UserError where nothing may be sent, or the name is none of a repository."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"--upload={repository}: give OWNER/NAME")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        raise UserError(
            f"--upload={repository}: HF_HUB_OFFLINE is set; unset it where the hub may be reached"
        )


def upload(
    directory: str | os.PathLike[str], repository: str, *, public: bool = False, api: Any = None
) -> str:
    """Sends all files of a directory in one commit; returns the address.

    Args:
        directory: what `directory.export` wrote.
        repository: OWNER/NAME; made where missing.
        public: whether a new repository can be read by anyone.
        api: `huggingface_hub.HfApi`; None makes one, which takes the token of the environment.

    Raises:
        UserError: huggingface_hub is missing, or the hub refuses; nothing is half sent, since all
            files come in one commit.
    """
    check(repository)
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise UserError(
            "--upload needs huggingface_hub: install gpst_jax[torch], or send the directory by "
            "other means"
        ) from error
    api = api or HfApi()
    try:
        api.create_repo(repo_id=repository, private=not public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=os.fspath(directory),
            commit_message="Export of gpst_jax",
        )
    except (HfHubHTTPError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--upload={repository}: {reason}; is HF_TOKEN that of an account which may write "
            "there?"
        ) from error
    return str(commit.commit_url)
