"""Uploads an exported directory to a model hub."""

import os
import re
from typing import Any

from data_pipeline.runtime.errors import UserError

_TRUE = {"1", "on", "yes", "true"}


def check(repository: str) -> None:
    """Raises UserError where the hub is offline or the repository name is invalid."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"--upload={repository}: give OWNER/NAME")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        raise UserError(f"--upload={repository}: HF_HUB_OFFLINE is set; unset it to allow uploads")


def upload(
    directory: str | os.PathLike[str], repository: str, *, public: bool = False, api: Any = None
) -> str:
    """Uploads all files of a directory in one commit; returns its URL.

    Args:
        directory: written by `directory.export`.
        repository: OWNER/NAME; created if missing.
        public: whether a new repository is public.
        api: `huggingface_hub.HfApi`; None: a new one with the token from the environment.

    Raises:
        UserError: huggingface_hub is missing, or the hub refuses. Since there is only one commit,
            nothing is uploaded partially.
    """
    check(repository)
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise UserError(
            "--upload needs huggingface_hub: install gpst_jax[torch], or upload the directory by "
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
            f"--upload={repository}: {reason}; does HF_TOKEN belong to an account with write "
            "access?"
        ) from error
    return str(commit.commit_url)
