"""Generates speech from checkpoints: the modes of GPST, or the tasks of SpeechGPT-Gen.

From recordings or a text to one file, or by a manifest to many (docs/generate.md):

    python -m experiments.generate --workdir=RUN --mode=speaker_transfer \
        --source=WHAT.wav --prompt=WHO.wav --output=OUT.wav
    python -m experiments.generate --workdir=RUN --lm_workdir=LM_RUN \
        --text="three four" --prompt=WHO.wav --output=OUT.wav

From the held-out recordings of a dataset to samples, which `experiments.evaluate` reads:

    python -m experiments.generate --workdir=GPST_RUN --audio_dir=RECORDINGS --output=SAMPLES
    python -m experiments.generate --workdir=PERCEPTUAL_RUN --lm_workdir=LM_RUN \
        --audio_dir=RECORDINGS --dialogue=FILE.jsonl --output=SAMPLES

PERCEPTUAL_RUN is a run of flow matching or of SoundStorm; without --lm_workdir it converts voices
only. A checkpoint names its dataset; its family decides what can be generated. A condition is a
directory with a manifest; complete ones are kept. All may be in a bucket: gs://BUCKET/NAME.
"""

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from data_pipeline.datasets.cache import exists, local_dataset
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.loading.mixture import dataset_with
from data_pipeline.runtime import cli, exit_codes, mirror
from data_pipeline.runtime.claim import claimed
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.flag_rules import given, may_be_in_buckets, refuse
from data_pipeline.runtime.progress import progress
from experiments import sampling_flags
from gpst_jax.checkpoints.manager import Loaded, load_params
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.config import ConfigError, FlowConfig, GPSTConfig, MeshConfig, SoundStormConfig
from gpst_jax.parallel import sharding
from gpst_jax.samples import items
from gpst_jax.samples.coig import CoIGConfig, CoIGSamples
from gpst_jax.samples.gpst import GPSTSamples
from gpst_jax.samples.gpst_config import MODES, TTS, GenerationConfig, default_modes
from gpst_jax.samples.language import Language
from gpst_jax.synthesis.files import SpeechFiles, names_a_file
from gpst_jax.synthesis.fingerprints import fingerprints
from gpst_jax.synthesis.models import open_model
from gpst_jax.synthesis.requests import SpeechRequest, read_requests
from gpst_jax.synthesis.synthesizer import Synthesizer

_GPST = GenerationConfig()
_COIG = CoIGConfig()
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of a run or its export: GPST, or a perceptual stage: flow matching, SoundStorm.",
    required=True,
)
_LM_WORKDIR = flags.DEFINE_string(
    "lm_workdir", None, "Directory of the language model's run or export, for tts and dialogue."
)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint of --workdir; default: the newest.", 0)
_SOURCE = flags.DEFINE_string(
    "source", None, "Recording of what is said, or of its beginning: one file instead of a dataset."
)
_PROMPT = flags.DEFINE_string("prompt", None, "Recording of the voice.")
_TEXT = flags.DEFINE_string("text", None, "What is said, with --lm_workdir; implies --mode=tts.")
_MANIFEST = flags.DEFINE_string(
    "manifest",
    None,
    "JSON lines with id and any of source, prompt, text, seconds, mode, seed: many files at once.",
)
_SECONDS = flags.DEFINE_float(
    "seconds",
    None,
    "Of continuation, how much of the source is given; of speech_continuation, how much is added "
    "at most; of other modes the longest speech.",
    0.01,
)
_STREAM = flags.DEFINE_bool(
    "stream", False, "Write the audio while it is made, to a wav file that can be played meanwhile."
)
_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "Token dataset made with the run's tokenizers; default: the run's own (of a mixture, the "
    "first).",
)
_AUDIO_DIR = flags.DEFINE_string(
    "audio_dir",
    None,
    "Root of the recordings that the dataset was made from; default: where they were then.",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Directory for samples; with one input, the file of its speech.", required=True
)
_MODE = flags.DEFINE_list(
    "mode",
    None,
    f"What to generate: with GPST {', '.join(MODES)}; with a perceptual stage "
    f"{', '.join(_COIG.tasks)}. Of a dataset several, by default all that the other flags allow "
    "but speech_continuation.",
)
_MODES = flags.DEFINE_list("modes", None, "The old name of --mode.")
_ITEMS = flags.DEFINE_integer("items", _GPST.items, "Items per condition, of seen speakers.", 0)
_UNSEEN = flags.DEFINE_integer(
    "unseen_items", _GPST.unseen_items, "Items per condition, of unseen speakers.", 0
)
_SENTENCES = flags.DEFINE_integer(
    "sentences", None, "Sentences, where items are digit strings; default: a fifth of them.", 0
)
_LANGUAGE = flags.DEFINE_string(
    "language", None, "Only recordings in this language, by its code; default: in any."
)
_PROMPT_LANGUAGE = flags.DEFINE_string(
    "prompt_language", None, "Prompts in this language; default: in that of --language."
)
_LENGTH = flags.DEFINE_float(
    "unconditional_seconds", _GPST.unconditional_seconds,
    "Longest unconditional sample of GPST, in seconds.", 0.01,
)  # fmt: skip
_DIALOGUE = flags.DEFINE_string(
    "dialogue", None, "File of questions and answers, as of data_pipeline.build_sequences."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seeds the choice of items and all sampling.", 0)
_SHARDS = flags.DEFINE_integer(
    "shards", 1, "Devices among which the weights of each model are divided.", 1
)
may_be_in_buckets("workdir", "lm_workdir", "dataset", "output")
_STAGES = ("flow", "soundstorm")
_DIRECT = ("source", "prompt", "text", "manifest")
_OF_DATASETS = (
    "audio_dir", "items", "unseen_items", "sentences", "dialogue", "unconditional_seconds",
    "language", "prompt_language",
)  # fmt: skip
flags.adopt_module_key_flags(sampling_flags)


def main(argv: list[str]) -> int:
    """Generates all conditions; returns the exit code."""
    del argv
    refuse(("modes",), "is called --mode now")
    one = names_a_file(_OUTPUT.value)
    direct = bool(given(*_DIRECT)) or one
    if direct:
        _check_direct()
    else:
        refuse(("seconds", "stream"), "is for --source, --text or --manifest")
    try:
        mesh = _mesh()
        place = mirror.output_file if one else mirror.outputs
        divided = contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)
        with place(_OUTPUT.value) as output, divided:
            return (_generate_directly if direct else _generate_from_dataset)(output, mesh)
    except (CheckpointError, ConfigError) as error:
        raise UserError(str(error)) from error


def _mesh() -> jax.sharding.Mesh | None:
    """The devices among which weights are divided."""
    count = _SHARDS.value
    if count == 1:
        return None
    devices = jax.devices()
    if count > len(devices):
        raise UserError(f"--shards={count}: there are {len(devices)} devices")
    return sharding.make_mesh(MeshConfig(1, 1, count), devices[:count])


def _load(workdir: str, step: int | None, mesh: jax.sharding.Mesh | None) -> Loaded:
    divided = None if mesh is None else functools.partial(sharding.parameter_shardings, mesh)
    return load_params(workdir, step, shardings=divided)


def _generate_from_dataset(output: Path, mesh: jax.sharding.Mesh | None) -> int:
    """Makes the conditions of held-out recordings in a directory."""
    started = time.monotonic()
    model = _load(_WORKDIR.value, _STEP.value, mesh)
    _check_flags(model)
    given_dir = _DATASET.value and local_dataset(_DATASET.value)
    dataset_dir = given_dir or dataset_with(_data_path(model), "valid", "unseen")
    spec = DatasetSpec.load(dataset_dir)
    _check_languages(spec, dataset_dir)
    splits = [split for split in ("valid", "unseen") if split in spec.splits]
    audio_dir = items.find_audio(dataset_dir, splits, _AUDIO_DIR.value)
    with claimed(output):
        language = None
        if _LM_WORKDIR.value:
            loaded = _load(_LM_WORKDIR.value, None, mesh)
            language = (loaded, dataset_with(loaded.config.data.path, "train"))
        counts = _generator(model, language, (dataset_dir, spec, audio_dir, output)).run()
    result = {
        "step": model.step,
        "samples": counts,
        "seconds": round(time.monotonic() - started, 2),
    }
    print(f"{sum(counts.values())} samples in {_OUTPUT.value}")
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    return exit_codes.OK


def _generate_directly(output: Path, mesh: jax.sharding.Mesh | None) -> int:
    """Makes speech of the inputs on the command line, or of those in a manifest."""
    started = time.monotonic()
    requests = _requests()
    files = SpeechFiles(output, single=not _MANIFEST.value)
    model = open_model(_WORKDIR.value, _STEP.value, _DATASET.value, mesh=mesh)
    family = model.loaded.config.model.family
    sampling_flags.check_family(family, _WORKDIR.value)
    lm = _LM_WORKDIR.value
    language = open_model(lm, flag="lm_workdir", mesh=mesh) if lm else None
    synthesizer = Synthesizer(model, language, sampling_flags.synthesis(family))
    if _MANIFEST.value:
        models = [one.loaded for one in (model, language) if one is not None]
        results = _write_many(requests, synthesizer, files, models)
    elif _STREAM.value:
        chunks = synthesizer.stream(requests[0])
        results = [files.write_stream(chunks, synthesizer.sample_rate).info]
    else:
        results = files.write(synthesizer.generate(requests))
    silent = [result["id"] for result in results if not result["seconds"]]
    factors = [result["real_time_factor"] for result in results if result["real_time_factor"]]
    first = results[0].get("first_audio_seconds")
    print(
        f"{sum(result['seconds'] for result in results):.2f} s of speech in {_OUTPUT.value}"
        + (f", real-time factor {factors[-1]}" if factors else "")
        + (f", first audio after {first} s" if first is not None else "")
        + ", compilation included"
    )
    if fired := Counter(name for result in results for name in result.get("guards", ())):
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(fired.items()))
        ended = sum(bool(result.get("guards")) for result in results)
        print(f"guards ended {ended} of {len(results)} ({kinds})")
    if silent:
        print(f"nothing was said for {len(silent)} of {len(results)}, such as {silent[0]!r}")
    if cli.JSON_OUT.value:
        result = {"samples": results, "seconds": round(time.monotonic() - started, 2)}
        write_json(cli.JSON_OUT.value, result)
    return exit_codes.PARTIAL if silent else exit_codes.OK


def _check_direct() -> None:
    """Raises UserError for flags that do not go together."""
    for name in given(*_DIRECT)[:1]:
        refuse(_OF_DATASETS, f"is for the recordings of a dataset, which --{name} excludes")
    refuse(_OF_DATASETS, "is for the recordings of a dataset: --output must then be a directory")
    if _MANIFEST.value:
        refuse(("source", "prompt", "text"), "stands in the lines of the --manifest")
    if _MODE.value and len(_MODE.value) > 1:
        raise UserError(f"--mode={','.join(_MODE.value)}: give one mode")
    if _STREAM.value:
        refuse(("manifest",), "is not streamed: leave out --stream")
        if Path(_OUTPUT.value).suffix.lower() != ".wav":
            raise UserError(f"--output={_OUTPUT.value}: a stream is written to FILE.wav")
        if sampling_flags.BEST_OF.value > 1:
            raise UserError(
                f"--best_of={sampling_flags.BEST_OF.value}: which sample is the best is known when "
                "all are complete: leave out --stream or --best_of"
            )


def _write_many(
    requests: Sequence[SpeechRequest],
    synthesizer: Synthesizer,
    files: SpeechFiles,
    models: Sequence[Loaded],
) -> list[dict[str, Any]]:
    """Makes what is not there yet, a batch at a time; the results of all requests."""
    with claimed(files.output):
        synthesizer.check(requests)
        prints = fingerprints(requests, synthesizer.recipe(), models)
        results = files.kept(prints)
        missing = [request for request in requests if request.id not in results]
        if results:
            print(f"{len(results)} of {len(requests)} are there", flush=True)
        size = sampling_flags.BATCH_SIZE.value
        with progress("speech", len(missing)) as advance:
            for start in range(0, len(missing), size):
                made = synthesizer.generate(missing[start : start + size], advance)
                results |= {result["id"]: result for result in files.write(made, prints)}
    return [results[request.id] for request in requests]


def _requests() -> list[SpeechRequest]:
    mode = _MODE.value[0] if _MODE.value else "tts" if _TEXT.value is not None else ""
    request = SpeechRequest(
        mode=mode,
        id=Path(_OUTPUT.value).stem,
        source=Path(_SOURCE.value) if _SOURCE.value else None,
        prompt=Path(_PROMPT.value) if _PROMPT.value else None,
        text=_TEXT.value,
        seconds=_SECONDS.value,
        seed=_SEED.value,
    )
    if _MANIFEST.value:
        return read_requests(_MANIFEST.value, request)
    if not mode:
        raise UserError("--mode is missing: say what to make of the input; --help lists the modes")
    return [request]


def _data_path(model: Loaded) -> str:
    path = model.config.data.path
    if not exists(path):
        raise UserError(
            f"--workdir={_WORKDIR.value}: its dataset {path!r} is not there, seen from {Path.cwd()}"
            ": give the dataset, or a copy of it, as --dataset"
        )
    return path


def _generator(
    model: Loaded, language: Language | None, where: tuple[str, DatasetSpec, Path, Path]
) -> Any:
    """The generator for the checkpoint's family; `where` are dataset, recordings and output."""
    if isinstance(model.config.model, GPSTConfig):
        return GPSTSamples(model, *where, _gpst_config(model, language is not None), language)
    if not isinstance(model.config.model, FlowConfig | SoundStormConfig):
        raise UserError(
            f"--workdir={_WORKDIR.value}: a model of family {model.config.model.family!r} "
            "generates no audio: give a run of GPST, flow matching or SoundStorm, and the language "
            "model's with --lm_workdir"
        )
    config = _coig_config(model.config.model.family, language is not None)
    return CoIGSamples(model, language, *where, _DIALOGUE.value, config)


def _gpst_config(model: Loaded, with_language: bool) -> GenerationConfig:
    return GenerationConfig(
        modes=tuple(_MODE.value or default_modes(model.config.data, with_language)),
        unconditional_seconds=_LENGTH.value,
        semantic=sampling_flags.units_of_gpst(),
        acoustic=sampling_flags.codes_of_gpst(),
        guards=sampling_flags.guards(),
        best_of=sampling_flags.BEST_OF.value,
        weights=sampling_flags.WEIGHTS.value,
        language_units=sampling_flags.units_of_language_model(),
        **_common(),
    )


def _check_flags(model: Loaded) -> None:
    """Raises UserError for flags that the model, or another flag, leaves without effect."""
    family = model.config.model.family
    sampling_flags.check_family(family, _WORKDIR.value)
    if family in _STAGES and not _LM_WORKDIR.value:
        refuse(
            ("dialogue", "semantic_temperature", "semantic_top_k"),
            "is for a language model, which --lm_workdir names: give both or neither",
        )
    if family == "gpst" and TTS in (_MODE.value or ()) and not _LM_WORKDIR.value:
        raise UserError(f"--mode={TTS} needs a language model: give --lm_workdir")
    if family == "gpst" and _MODE.value and TTS not in _MODE.value:
        refuse(("lm_workdir",), f"is for the mode {TTS}, not for --mode={','.join(_MODE.value)}")
    if _MODE.value and "dialogue" not in _MODE.value:
        refuse(("dialogue",), f"is for the mode dialogue, not for --mode={','.join(_MODE.value)}")


def _check_languages(spec: DatasetSpec, dataset_dir: str) -> None:
    for flag in (_LANGUAGE, _PROMPT_LANGUAGE):
        if flag.value is not None and flag.value not in spec.languages:
            raise UserError(
                f"--{flag.name}={flag.value}: the recordings of {dataset_dir} are in "
                f"{', '.join(spec.languages)}"
            )


def _coig_config(family: str, with_language: bool) -> CoIGConfig:
    possible = list(_COIG.tasks) if with_language else ["voice_conversion"]
    if not _DIALOGUE.value and "dialogue" in possible:
        possible.remove("dialogue")
    return CoIGConfig(
        tasks=tuple(_MODE.value or possible),
        units=sampling_flags.units_of_language_model(),
        perceptual=sampling_flags.perceptual(family),
        **_common(),
    )


def _common() -> dict[str, Any]:
    sentences = {} if _SENTENCES.value is None else {"sentences": _SENTENCES.value}
    return sentences | {
        "items": _ITEMS.value,
        "unseen_items": _UNSEEN.value,
        "languages": (_LANGUAGE.value, _PROMPT_LANGUAGE.value),
        "prompt_seconds": sampling_flags.PROMPT.value,
        "batch_size": sampling_flags.BATCH_SIZE.value,
        "seed": _SEED.value,
    }


if __name__ == "__main__":
    cli.run(main)
