"""Zero-shot text to speech on the English part of seed-tts-eval (Common Voice, CC0)."""

import os
from pathlib import Path

from data_pipeline.runtime.errors import UserError
from gpst_jax.tasks import base
from gpst_jax.tasks.base import Item, ItemList, ListedTask, Request

_LISTS = ("meta.lst", "en/meta.lst", "seedtts_testset/en/meta.lst")  # where archives have it


def choose(request: Request) -> ItemList:
    """The items of meta.lst: a text in the voice of a prompt.

    A line has four columns parted by bars: id, text of the prompt, prompt and text to speak;
    a fifth names the recording of that text, else looked for as wavs/ID.wav. Paths are relative to
    the list. Speakers of Common Voice are not published with it: a prompt stands for its speaker.

    Raises:
        UserError: there is no list, it cannot be read, or recordings are missing.
    """
    path = _list(request)
    root = path.parent
    items = []
    for row in base.read_lines(path, "|", (4, 5)):
        name, _, prompt, text, *recording = row
        name = name.removesuffix(".wav")
        speaker = Path(prompt).stem
        spoken = recording[0] if recording else f"wavs/{name}.wav"
        items.append(
            Item(
                id=name,
                speaker=speaker,
                text=text,
                source=_relative(spoken, root) if recording or (root / spoken).is_file() else None,
                prompt=_relative(prompt, root),
                prompt_speaker=speaker,
                language="en",
            )
        )
    return base.complete(items, root, f"--list={path}", path)


def _list(request: Request) -> Path:
    what = "the folder of seed-tts-eval's test set, or its meta.lst as --list"
    if request.list_file is not None:
        return request.published_list(SEED_TTS_EN.name, what)
    root = request.corpus(SEED_TTS_EN.name, what)
    for name in _LISTS:
        if (root / name).is_file():
            return root / name
    raise UserError(f"--corpus_dir={root}: holds no {' or '.join(_LISTS)}: give {what}")


def _relative(path: str, root: Path) -> str:
    return os.path.relpath(path, root) if os.path.isabs(path) else path


SEED_TTS_EN = ListedTask(
    name="seed-tts-en",
    source="seed-tts-eval (BytedanceSpeech/seed-tts-eval; arXiv 2406.02430): 1,088 English items, "
    "word errors by Whisper-large-v3, mean over sentences, numbers as they are written",
    rule="the published meta.lst, in its order",
    modes={"gpst": ("tts",), "flow": ("tts",), "soundstorm": ("tts",)},
    choose=choose,
    wer=("wer/seed-tts-en", "wer/whisper-large-v3-english"),
    published=1088,
)
