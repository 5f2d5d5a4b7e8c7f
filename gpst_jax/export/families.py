"""How the arrays of each model family are named and laid out outside JAX.

Layers, which are stacked along a leading axis here, are single tensors there. Matrices are
(out, in), as torch's linear layers hold them; ours are (in, out). Everything else is as it is.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from data_pipeline.vocabulary import Vocabulary
from gpst_jax.config import ConfigError, ModelConfig, RunConfig, SemanticLMConfig

_STACK = "layers"
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One exported tensor.

    Attributes:
        name: outside.
        path: of the array here.
        layer: row of the array's leading axis; None for an array that is not a stack.
        transposed: whether the last two axes are swapped.
        shape: outside.
    """

    name: str
    path: str
    layer: int | None
    transposed: bool
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Family:
    """What is particular to a model family outside JAX.

    Attributes:
        name: `family` of the model's configuration.
        architecture: the torch class; None where there is none.
        model_type: by which transformers finds the class.
        name_of: maps the path of an array, `layers` followed by the layer's number, to its name.
        config: further keys of `config.json`, from the run, the contents of dataset.json and the
            arrays' shapes by path.
    """

    name: str
    architecture: str | None
    model_type: str
    name_of: Callable[[str], str]
    config: Callable[[RunConfig, Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]

    def tensors(self, shapes: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of a model, ordered by array and layer.

        Args:
            shapes: by path, anything with a `shape`.
        """
        found = []
        for path in sorted(shapes):
            shape = tuple(shapes[path].shape)
            stacked = _STACK in path.split("/")[:-1]
            transposed = path.endswith("/kernel")
            own = shape[1:] if stacked else shape
            if transposed:
                own = (*own[:-2], own[-1], own[-2])
            for layer in range(shape[0]) if stacked else (None,):
                at = path if layer is None else path.replace(f"{_STACK}/", f"{_STACK}/{layer}/", 1)
                found.append(Tensor(self.name_of(at), path, layer, transposed, own))
        return found


def plain_name(path: str) -> str:
    """`global_net/layers/0/attn/q/kernel` as `global_net.layers.0.attn.q.weight`."""
    *parents, leaf = path.split("/")
    return ".".join([*parents, _LEAVES.get(leaf, leaf)])


def _speech_config(
    config: RunConfig, dataset: Mapping[str, Any], shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """What a model over both streams must know: sizes, rates, positions and silence."""
    semantic, codec = dataset["semantic"], dataset["codec"]
    return {
        "model": dataclasses.asdict(config.model),
        "layout": {
            "num_units": semantic["vocab_size"],
            "num_codebooks": codec["num_codebooks"],
            "codebook_size": codec["codebook_size"],
            "unit_rate": semantic["frame_rate"],
            "frame_rate": codec["frame_rate"],
        },
        "positions": config.data.positions,
        "deduplicate": config.data.deduplicate,
    }


def _vocabulary_config(
    config: RunConfig, dataset: Mapping[str, Any], shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """What a language model of text and units must know: its ids, in their order."""
    vocabulary = _vocabulary(dataset)
    return {
        "model": dataclasses.asdict(config.model),
        "vocab_size": vocabulary.size,
        "vocabulary": dataclasses.asdict(vocabulary),
    }


def _llama_config(
    config: RunConfig, dataset: Mapping[str, Any], shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """The same as transformers says it of Llama, whose own class loads it."""
    from gpst_jax import llama  # it names its tensors with the classes of this module

    vocabulary = _vocabulary(dataset)
    return llama.to_hf_config(
        config.model_as(SemanticLMConfig), vocabulary.size, config.data.row_length
    ) | {
        "bos_token_id": None,
        "eos_token_id": vocabulary.end,
        "pad_token_id": vocabulary.padding,
        "vocabulary": dataclasses.asdict(vocabulary),
    }


def _flow_config(
    config: RunConfig, dataset: Mapping[str, Any], shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """What the flow must know beside its tensors."""
    width = shapes["codebooks/embedding"].shape[-1]
    return _speech_config(config, dataset, shapes) | {"latent_size": width}


def _vocabulary(dataset: Mapping[str, Any]) -> Vocabulary:
    fields = dict(dataset["vocabulary"])
    return Vocabulary(**fields | {"specials": tuple(fields["specials"])})


def _llama_name(path: str) -> str:
    from gpst_jax import llama

    return llama.name_of(path)


_LLAMA = Family("semantic_lm", "LlamaForCausalLM", "llama", _llama_name, _llama_config)
_FAMILIES = {
    "gpst": Family("gpst", "GPSTForSpeech", "gpst", plain_name, _speech_config),
    "semantic_lm": Family(
        "semantic_lm", "SemanticLM", "gpst_semantic_lm", plain_name, _vocabulary_config
    ),
    "flow": Family("flow", "FlowForSpeech", "gpst_flow", plain_name, _flow_config),
    "soundstorm": Family("soundstorm", None, "gpst_soundstorm", plain_name, _speech_config),
}


def get_family(model: ModelConfig) -> Family:
    """The family of a model's configuration; a language model of Llama's block is a Llama.

    Raises:
        ConfigError: it has no exported form.
    """
    if isinstance(model, SemanticLMConfig) and model.block == "llama":
        return _LLAMA
    if model.family not in _FAMILIES:
        raise ConfigError(
            f"config field model.family: {model.family!r} cannot be exported, only "
            f"{', '.join(_FAMILIES)}"
        )
    return _FAMILIES[model.family]
