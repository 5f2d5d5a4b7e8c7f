"""The model card: what an exported model is, its data, training, evaluation and limits."""

import json
from collections.abc import Mapping
from typing import Any

from gpst_jax.evaluation.report import tables
from gpst_jax.weights.sources import Description

NO_LICENCE = "not stated"

_LOADING = {
    "safetensors": """
    from gpst_jax.weights import loading

    model = loading.load(loading.open_source("DIRECTORY"))  # parameters for JAX
""",
    "hf": """
    import gpst_jax.hf  # registers the class; nothing is downloaded, no code comes with the weights
    from transformers import AutoModel

    model = AutoModel.from_pretrained("DIRECTORY")  # Llama's block: AutoModelForCausalLM
""",
    "params": """
    python -m experiments.generate --workdir=DIRECTORY --dataset=TOKENS --audio_dir=RECORDINGS \\
        --output=SAMPLES
""",
}

_LIMITS = """- Languages, voices and recording conditions absent from the data are not covered.
- Training segments were at most {crop_seconds:g} s long; longer ones were never seen.
- The model can imitate a voice from a few seconds of it. Use it only with the speaker's consent,
  and label published speech as synthetic. The output carries no watermark.
- The output is not filtered: it may be wrong, unintelligible, or offensive.
- Figures of recipes that end in `-smoke` compare rows of one table with each other, and are not
  comparable with published ones."""


def render(
    about: Description,
    parameters: int,
    format: str,
    results: Mapping[str, Any] | None,
    licence: str = NO_LICENCE,
) -> str:
    """The card as Markdown with the YAML header that model hubs read.

    Args:
        about: the model.
        parameters: how many.
        format: of the export.
        results: of an evaluation, or None.
        licence: SPDX identifier of the weights' licence.
    """
    config = about.config
    header = {
        "library_name": "gpst_jax",
        "license": "other" if licence == NO_LICENCE else licence.lower(),
        "pipeline_tag": "audio-to-audio",
        "tags": ["speech", "jax", config.model.family],
    }
    languages = [code for code in about.dataset.get("languages", ()) if code != "und"]
    if languages:
        header["language"] = languages
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in header.items()), "---", ""]
    lines += [
        f"# {config.name}",
        "",
        f"{_summary(config.model)} {parameters:,} parameters "
        f"({about.weights}, step {about.step:,}), exported by gpst_jax as `{format}`.",
        _LOADING[format],
        "## Data",
        "",
        *_data(about.dataset),
        "",
        "## Training",
        "",
        *_training(about),
        "",
        "## Evaluation",
        "",
        *(_evaluation(results) if results else ["Not evaluated."]),
        "",
        "## Limits",
        "",
        _LIMITS.format(crop_seconds=config.data.crop_seconds),
        "",
        "## Licence",
        "",
        f"Weights: {licence}. The code of gpst_jax is under the Apache License 2.0.",
        "",
    ]
    return "\n".join(lines)


def _summary(model: Any) -> str:
    return (type(model).__doc__ or "").splitlines()[0]


def _data(dataset: Mapping[str, Any]) -> list[str]:
    semantic, codec = dataset["semantic"], dataset["codec"]
    lines = [
        "| split | recordings | hours |",
        "|---|---|---|",
        *(
            f"| {name} | {split['num_records']:,} | {split['hours']:.2f} |"
            for name, split in dataset["splits"].items()
        ),
        "",
        f"- languages: {', '.join(dataset.get('languages', ('und',)))}",
        f"- sample rate: {dataset['sample_rate']:,} Hz",
        f"- semantic units: `{semantic['id']}`, {semantic['vocab_size']} at "
        f"{semantic['frame_rate']:g} Hz",
        f"- acoustic codes: `{codec['id']}`, {codec['num_codebooks']} codebooks of "
        f"{codec['codebook_size']} at {codec['frame_rate']:g} Hz",
        f"- dataset fingerprint: `{dataset['fingerprint']}`",
    ]
    text = dataset.get("text_tokenizer")
    if isinstance(text, Mapping):
        lines.append(f"- text: `{text['id']}`, {text['vocab_size']} ids")
    if "tasks" in dataset:
        lines.append(f"- tasks: {', '.join(dataset['tasks'])}; trained on: {dataset['train_on']}")
    return lines


def _training(about: Description) -> list[str]:
    config = about.config
    data, optimizer, train = config.data, config.optimizer, config.train
    average = f", EMA with decay {train.ema_decay}" if about.weights == "ema" else ""
    return [
        f"- {about.step:,} of {train.steps:,} steps, batches of {data.batch_size} rows of "
        f"{data.sequence_length} positions, segments of at most {data.crop_seconds:g} s{average}",
        f"- {optimizer.name}, learning rate {optimizer.learning_rate:g} ({optimizer.schedule}, "
        f"{optimizer.warmup_steps} warm-up steps), weight decay {optimizer.weight_decay:g}",
        f"- gpst_jax {about.code_version}, JAX {about.jax_version}",
    ]


def _evaluation(results: Mapping[str, Any]) -> list[str]:
    recipes = tables.recipe_columns(dict(results))
    lines = []
    for recipe in recipes:
        rows = []
        for _, part in tables.sections(dict(results)):
            for name, row in part:
                value = row.get(recipe)
                if value and value["value"] is not None:
                    shown = tables.number(recipe, value["value"])
                    rows.append(
                        f"| {name} | {shown} {tables.interval(recipe, value)} | {value['n']} |"
                    )
        if rows:
            lines += [f"| `{recipe}` | value, 95 % interval | n |", "|---|---|---|", *rows, ""]
    return [*lines, "Recipes and package versions: `evaluation.json`."]
