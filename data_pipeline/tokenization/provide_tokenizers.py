"""Puts both tokenizers into a dataset's directory: given ones, or fitted on the corpus."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.datasets.token_dataset import CODEC_PATH, SEMANTIC_PATH
from data_pipeline.fitting.offline import fit_tokenizers
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.sources import Utterance
from data_pipeline.tokenizers import store_tokenizer

FITTED = ".fitted"
REPORTS = ".reports"  # what an unfinished run needs to go on
# What the recordings held that the tokenizers were fitted on, by id.
FITTED_CONTENTS = f"{REPORTS}/fitted.json"


def provide_tokenizers(
    output: Path,
    semantic: str | None,
    codec: str | None,
    utterances: Sequence[Utterance],
    *,
    min_seconds: float,
    seed: int,
    num_workers: int,
) -> None:
    """Creates the directory of each tokenizer where it is missing; only complete ones appear.

    Args:
        output: the dataset directory.
        semantic: name of the semantic tokenizer (see `tokenizers`), or None to fit one.
        codec: name of the acoustic codec, or None to fit one.
        utterances: to fit on.
        min_seconds: shorter recordings are not fitted on.
        seed: of the fit.
        num_workers: processes of the fit; 0 means one.

    Raises:
        UserError: too little audio to fit on.
    """
    fitted = output / FITTED
    for given, path in ((semantic, SEMANTIC_PATH), (codec, CODEC_PATH)):
        target = output / path
        if target.exists():
            continue
        if given is None and not fitted.exists():
            contents = _fit(utterances, fitted, min_seconds, seed, num_workers)
            write_json(output / FITTED_CONTENTS, contents)
            _part(fitted).replace(fitted)
        temporary = target.with_name(f".{target.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        store_tokenizer(given or fitted / target.name, temporary)
        temporary.replace(target)
    shutil.rmtree(fitted, ignore_errors=True)


def _fit(
    utterances: Sequence[Utterance], target: Path, min_seconds: float, seed: int, num_workers: int
) -> dict[str, str]:
    """Fits the offline tokenizers beside `target`; returns what the recordings held, by id."""
    temporary = _part(target)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        return fit_tokenizers(
            utterances,
            temporary,
            min_seconds=min_seconds,
            seed=seed,
            num_workers=num_workers or 1,
        )["contents"]
    except UserError as error:
        raise UserError(
            f"fitting tokenizers: {error}. For other sizes, fit them with python -m "
            "data_pipeline.fit_tokenizers and name them with --semantic and --codec"
        ) from error


def _part(target: Path) -> Path:
    """Where a directory is written before it is complete."""
    return target.with_name(f"{target.name}.part")
