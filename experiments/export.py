"""Exports or imports a model, converting between any two formats.

    python -m experiments.export --checkpoint=RUN --format=hf --output=DIRECTORY

`--checkpoint` is the workdir of a run, or a directory written by this program or by torch. The
formats:

* `safetensors`: tensors in torch's layout, `config.json`, tokenizers, dataset.json, model card;
* `hf`: the same, as a directory that transformers loads once `gpst_jax.hf` is imported;
* `params`: a checkpoint of parameters alone, accepted in place of a run by `generate`, `finetune`
  and `pretrain`; exporting to it is how safetensors are imported.

Both may be in a bucket: gs://BUCKET/NAME. Several steps are averaged: `--steps=800,900,1000`.
Nothing is uploaded unless `--upload=OWNER/NAME` is given, and never if HF_HUB_OFFLINE is set. See
docs/export.md.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.datasets.cache import local_dataset, local_folder
from data_pipeline.runtime import cli, mirror
from data_pipeline.runtime.buckets import access, location
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.flag_rules import may_be_in_buckets, refuse
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.checkpoints.storage import StorageError
from gpst_jax.config import ConfigError
from gpst_jax.weights import loading, model_card, peft, shards, upload
from gpst_jax.weights.directory import FORMATS, export
from gpst_jax.weights.sources import Source

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Directory of a run, or of an exported model.", required=True
)
_FORMAT = flags.DEFINE_enum("format", "safetensors", FORMATS, "Output format.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Directory to write, which must not exist.", required=True
)
_STEPS = flags.DEFINE_list("steps", [], "Of a run: the step, or the steps to average.")
_AVERAGE = flags.DEFINE_bool(
    "average", True, "Of a run: export the EMA of the parameters if there is one."
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", list(shards.DTYPES), "Type of the tensors.")
_SHARD_GB = flags.DEFINE_float("shard_gb", 5.0, "Largest tensor file, in 10^9 bytes.", 1e-6)
_RESULTS = flags.DEFINE_string(
    "results", None, "Results of experiments.evaluate or of the demo, for the model card."
)
_TOKENIZERS = flags.DEFINE_string(
    "tokenizers", None, "Directory of dataset.json and tokenizers, if the run's dataset has moved."
)
_LICENCE = flags.DEFINE_string(
    "licence", model_card.NO_LICENCE, "Licence of the weights, as an SPDX identifier."
)
_ADAPTERS = flags.DEFINE_string(
    "adapters", None, "Directory of PEFT adapters to merge into the model."
)
_UPLOAD = flags.DEFINE_string("upload", None, "OWNER/NAME on the model hub to upload to.")
_PUBLIC = flags.DEFINE_bool("public", False, "With --upload: make it public.")
may_be_in_buckets("checkpoint", "output", "results", "tokenizers", "adapters")


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; options start with --")
    if _UPLOAD.value:
        upload.check(_UPLOAD.value)  # before any work
    else:
        refuse(("public",), "is given with --upload only")
    mirror.check_new(_OUTPUT.value)
    with mirror.made(_OUTPUT.value) as output:
        result = _export(output)
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    return 0


def _export(output: Path) -> dict[str, Any]:
    """Writes the model to a local directory, and uploads it from there if that is asked for."""
    try:
        source: Source = loading.open_source(
            _CHECKPOINT.value, _read_steps(), average=_AVERAGE.value
        )
        if _ADAPTERS.value:
            source = peft.AdaptedSource(source, local_folder(_ADAPTERS.value))
        result = export(
            source,
            output,
            _FORMAT.value,
            dtype=_DTYPE.value,
            shard_bytes=round(_SHARD_GB.value * 1e9),
            results=_read_results(),
            tokenizers=Path(local_dataset(_TOKENIZERS.value)) if _TOKENIZERS.value else None,
            licence=_LICENCE.value,
        )
    except (CheckpointError, ConfigError, StorageError) as error:
        raise UserError(str(error)) from error
    result["output"] = _OUTPUT.value
    print(
        f"{result['parameters']:,} parameters of {source.description.config.name}, step "
        f"{source.description.step} ({source.description.weights}), in {result['output']}: "
        f"{result['files']} files, {result['bytes'] / 1e6:,.1f} MB"
    )
    if _UPLOAD.value:
        result["url"] = upload.upload(output, _UPLOAD.value, public=_PUBLIC.value)
        print(f"uploaded to {result['url']}")
    return result


def _read_steps() -> list[int]:
    try:
        return [int(step) for step in _STEPS.value]
    except ValueError as error:
        raise UserError(f"--steps={','.join(_STEPS.value)}: give step numbers") from error


def _read_results() -> dict[str, Any] | None:
    if _RESULTS.value is None:
        return None
    try:
        with access(_RESULTS.value):
            results = json.loads(location(_RESULTS.value).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--results={_RESULTS.value}: {error}") from error
    if not isinstance(results, dict) or "recipes" not in results:
        raise UserError(
            f"--results={_RESULTS.value}: not the results of experiments.evaluate (--json_out)"
        )
    return results


if __name__ == "__main__":
    cli.run(main)
