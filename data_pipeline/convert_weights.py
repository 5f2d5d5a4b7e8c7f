"""Converts a published model's pickled weights to a safetensors file.

    python -m data_pipeline.convert_weights --model=DIR --output=DIR

Reads `*.bin`, `*.pt` and `*.pth` with PyTorch's restricted unpickler (`weights_only`), which allows
only tensors and plain containers. Copies the JSON files of the directory. Tokenizers read the
result; they never read a pickle.

Weights of wav2vec 2.0 under the names of fairseq2 or fairseq (`xlsr2_1b_v2`) are recognised by
them, and written under those of transformers, with config.json and preprocessor_config.json.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.tokenizers import fairseq2_weights, torch_runtime
from data_pipeline.tokenizers.pretrained import read_settings

_PICKLES = (".bin", ".pt", ".pth")
_DESCRIPTIONS = ("config.json", "preprocessor_config.json")
_WRAPPERS = ("state_dict", "model", "generator")


def convert_weights(model: str | Path, output: str | Path) -> dict[str, Any]:
    """Writes `output`/model.safetensors.

    Args:
        model: directory with config.json and weights in one or several pickles.
        output: directory, created if missing.

    Returns:
        `output`, the number of `tensors`, `read`, the names of the files, and `renamed`, whether
        the tensors were written under other names.

    Raises:
        UserError: no such files, one that holds more than tensors, two with a tensor of the same
            name, or `output` cannot be written.
    """
    torch = torch_runtime.import_torch()
    from safetensors.torch import save_file

    source, target = Path(model), Path(output)
    if not source.is_dir():
        raise UserError(f"model {source} is not a directory")
    names = sorted(
        path.name
        for path in source.iterdir()
        if path.suffix in _PICKLES and path.name != "training_args.bin"
    )
    if not names:
        raise UserError(f"model {source} holds no {', '.join(_PICKLES)} file")
    tensors: dict[str, Any] = {}
    for name in names:
        for key, tensor in _read(torch, source / name).items():
            if key in tensors:
                raise UserError(
                    f"{source}: {key} is in two of {', '.join(names)}: these are different models, "
                    "leave one file there"
                )
            # Tensors may share memory or be views, which safetensors cannot represent.
            tensors[key] = tensor.detach().clone().contiguous()
    renamed = fairseq2_weights.is_foreign(tensors)
    written: dict[str, Any] = {}
    if renamed:
        given = read_settings(source) if (source / "config.json").exists() else {}
        tensors, *described = fairseq2_weights.translate(tensors, given, str(source))
        written = dict(zip(_DESCRIPTIONS, described, strict=True))
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path in source.glob("*.json"):
            if path.name not in written and path.resolve() != (target / path.name).resolve():
                shutil.copyfile(path, target / path.name)
        for name, description in written.items():
            write_json(target / name, description)
        temporary = target / ".model.safetensors.part"
        save_file(tensors, temporary, metadata={"format": "pt"})
        temporary.replace(target / "model.safetensors")
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from error
    for path in target.glob("*.bin.index.json"):
        path.unlink()  # lists the pickled files
    return {"output": str(target), "tensors": len(tensors), "read": names, "renamed": renamed}


def _read(torch: Any, path: Path) -> Mapping[str, Any]:
    """The tensors of a pickle, by name."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a corrupt or malicious file may raise anything
        message = " ".join(str(error).split())[:200]
        raise UserError(f"{path} holds more than tensors and is not read: {message}") from error
    for name in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"{path} holds {type(found).__name__}, not tensors by name")
    others = [name for name, value in found.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise UserError(f"{path}: {others[0]!r} is not a tensor ({len(others)} of {len(found)})")
    return {str(name): value for name, value in found.items()}


def _define_flags() -> None:
    flags.DEFINE_string("model", None, "Directory of the published model.", required=True)
    flags.DEFINE_string("output", None, "Directory to write.", required=True)


def main(argv: list[str]) -> int:
    """Runs the program; see the module."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    result = convert_weights(flags.FLAGS.model, flags.FLAGS.output)
    print(json.dumps(result))
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    return 0


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
