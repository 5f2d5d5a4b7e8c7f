"""Voice conversion on VCTK (Yamagishi et al., University of Edinburgh; CC BY 4.0)."""

import re
from pathlib import Path

from data_pipeline.runtime.errors import UserError
from gpst_jax.tasks import base
from gpst_jax.tasks.base import Item, ItemList, ListedTask, Request

PER_SPEAKER = 2
SHARED = 24  # sentences 1 to 24 are the same for all speakers
SHORTEST_SOURCE, SHORTEST_PROMPT = 2.0, 3.0  # seconds
SEED = 0
# (folder, end of a file's name): version 0.92, of which microphone 1 is taken, and older ones.
_LAYOUTS = (("wav48_silence_trimmed", "_mic1.flac"), ("wav48", ".wav"), ("wav16", ".wav"))


def choose(request: Request) -> ItemList:
    """Two sentences of each speaker, each in the voice of another speaker.

    Sentences that all speakers read are left out, so that source and prompt differ in their words.

    Raises:
        UserError: the corpus is of another layout, or has fewer than two speakers.
    """
    root = request.corpus(VCTK_VC.name, "the directory of VCTK, with txt and wav48_silence_trimmed")
    folder, ending = _layout(root)
    texts = _texts(root)
    recordings = {
        name: f"{folder}/{name.split('_')[0]}/{name}{ending}"
        for name in texts
        if (root / folder / name.split("_")[0] / f"{name}{ending}").is_file()
    }
    by_speaker: dict[str, list[str]] = {}
    for name in sorted(recordings):
        if int(name.split("_")[1]) > SHARED:
            by_speaker.setdefault(name.split("_")[0], []).append(name)
    if len(by_speaker) < 2:
        raise UserError(f"--corpus_dir={root}: fewer than two speakers with sentences of their own")
    items = []
    for speaker, names in by_speaker.items():
        sources = _first(root, recordings, names, speaker, SHORTEST_SOURCE, PER_SPEAKER)
        for name in sources:
            target, prompt = _target(root, recordings, by_speaker, speaker, name)
            items.append(
                Item(
                    id=name,
                    speaker=speaker,
                    text=texts[name],
                    source=recordings[name],
                    prompt=recordings[prompt],
                    prompt_speaker=target,
                    language="en",
                )
            )
    items.sort(key=lambda item: item.id)
    return base.complete(items, root, f"--corpus_dir={root}")


def _layout(root: Path) -> tuple[str, str]:
    for folder, ending in _LAYOUTS:
        if (root / folder).is_dir() and (root / "txt").is_dir():
            return folder, ending
    folders = " or ".join(folder for folder, _ in _LAYOUTS)
    raise UserError(f"--corpus_dir={root}: holds no txt beside {folders}: give the root of VCTK")


def _texts(root: Path) -> dict[str, str]:
    """Text by utterance, such as p225_025."""
    return {
        path.stem: path.read_text(encoding="utf-8").strip()
        for path in sorted((root / "txt").glob("*/*.txt"))
        if re.fullmatch(r"[a-z]\d+_\d+", path.stem)
    }


def _first(
    root: Path, recordings: dict[str, str], names: list[str], key: str, shortest: float, count: int
) -> list[str]:
    """The first names by a hash whose recordings are long enough."""
    found: list[str] = []
    for name in base.by_hash(names, SEED, key):
        if base.duration(root / recordings[name]) >= shortest:
            found.append(name)
            if len(found) == count:
                break
    return found


def _target(
    root: Path,
    recordings: dict[str, str],
    by_speaker: dict[str, list[str]],
    speaker: str,
    name: str,
) -> tuple[str, str]:
    """Another speaker, and a long enough recording of that speaker."""
    for target in base.by_hash((s for s in by_speaker if s != speaker), SEED, name):
        prompts = _first(root, recordings, by_speaker[target], name, SHORTEST_PROMPT, 1)
        if prompts:
            return target, prompts[0]
    raise UserError(
        f"--corpus_dir={root}: no speaker but {speaker} has a recording of {SHORTEST_PROMPT:g} s"
    )


VCTK_VC = ListedTask(
    name="vctk-vc",
    source="SpeechGPT-Gen (arXiv 2401.13527, section 4): zero-shot voice conversion on VCTK; the "
    "paper publishes no list",
    rule=f"{PER_SPEAKER} sentences of each speaker above number {SHARED} and of at least "
    f"{SHORTEST_SOURCE:g} s, target speaker, and the target's recording of at least "
    f"{SHORTEST_PROMPT:g} s, each by SHA-256 of (seed {SEED}, key, name); microphone 1",
    modes={
        "gpst": ("speaker_transfer",),
        "flow": ("voice_conversion",),
        "soundstorm": ("voice_conversion",),
    },
    choose=choose,
    wer=("wer/whisper-large-v3-english",),
)
