"""Tasks on LibriSpeech test-clean (Panayotov et al. 2015; openslr.org/12, CC BY 4.0).

Two protocols: that of GPST, and the cross-sentence list of F5-TTS.
"""

from pathlib import Path

from data_pipeline.runtime.errors import UserError
from gpst_jax.tasks import base
from gpst_jax.tasks.base import Item, ItemList, ListedTask, Request

SHORTEST, LONGEST = 4.0, 10.0  # seconds, of GPST's utterances
SEED = 0  # of the choice of prompts
_WHAT = "the directory of LibriSpeech, or its test-clean"
_COLUMNS = 6


def _test_clean(request: Request, task: str) -> Path:
    """The directory whose folders are the speakers."""
    root = request.corpus(task, _WHAT)
    places = (root / "test-clean", root / "LibriSpeech" / "test-clean")
    return next((place for place in places if place.is_dir()), root)


def _transcripts(root: Path) -> dict[str, str]:
    """Text by utterance, of every SPEAKER-CHAPTER.trans.txt."""
    texts: dict[str, str] = {}
    for path in sorted(root.glob("*/*/*.trans.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            if name:
                texts[name] = text.strip()
    return texts


def _recording(utterance: str) -> str:
    """Its path below test-clean: SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac."""
    speaker, chapter, _ = utterance.split("-")
    return f"{speaker}/{chapter}/{utterance}.flac"


def choose_gpst(request: Request) -> ItemList:
    """Utterances of 4 to 10 s, each with a prompt of another speaker.

    The prompt of an item: of the other speakers the first by a hash, of that speaker's chosen
    utterances the first by a hash.

    Raises:
        UserError: the corpus is not complete, or is not LibriSpeech.
    """
    root = _test_clean(request, GPST.name)
    texts = _transcripts(root)
    if not texts:
        raise UserError(f"--corpus_dir={root}: no SPEAKER/CHAPTER/*.trans.txt in it: give {_WHAT}")
    chosen: dict[str, list[str]] = {}
    for name in sorted(texts):
        path = root / _recording(name)
        if not path.is_file():
            raise UserError(f"--corpus_dir={root}: no {_recording(name)}, which has a text")
        if SHORTEST <= base.duration(path) <= LONGEST:
            chosen.setdefault(name.split("-")[0], []).append(name)
    if len(chosen) < 2:
        raise UserError(
            f"--corpus_dir={root}: {len(chosen)} speakers with utterances of {SHORTEST:g} to "
            f"{LONGEST:g} s; a prompt needs another speaker"
        )
    items = []
    for speaker, names in chosen.items():
        for name in names:
            others = base.by_hash((s for s in chosen if s != speaker), SEED, name)
            prompt = base.by_hash(chosen[others[0]], SEED, name)[0]
            items.append(
                Item(
                    id=name,
                    speaker=speaker,
                    text=texts[name],
                    source=_recording(name),
                    prompt=_recording(prompt),
                    prompt_speaker=others[0],
                    language="en",
                )
            )
    items.sort(key=lambda item: item.id)
    return base.complete(items, root, f"--corpus_dir={root}")


def choose_cross_sentence(request: Request) -> ItemList:
    """The pairs of a published list: the text of one utterance in the voice of another.

    A line has six columns parted by tabs: prompt, its seconds and its text, then utterance, its
    seconds and its text; both are of one speaker. Recordings are found in test-clean.

    Raises:
        UserError: the list cannot be read, or recordings are missing.
    """
    root = _test_clean(request, CROSS_SENTENCE.name)
    what = "librispeech_pc_test_clean_cross_sentence.lst of F5-TTS, or another list of that form"
    path = request.published_list(CROSS_SENTENCE.name, what)
    items = []
    for number, row in enumerate(base.read_lines(path, "\t", (_COLUMNS,)), 1):
        prompt, _, _, name, _, text = row
        if not all(utterance.count("-") == 2 for utterance in (prompt, name)):
            raise UserError(
                f"--list={path}, item {number}: {prompt!r} and {name!r} are not both utterances "
                "SPEAKER-CHAPTER-NUMBER"
            )
        items.append(
            Item(
                id=name,
                speaker=name.split("-")[0],
                text=text,
                source=_recording(name),
                prompt=_recording(prompt),
                prompt_speaker=prompt.split("-")[0],
                language="en",
            )
        )
    return base.complete(items, root, f"--list={path}", path)


GPST = ListedTask(
    name="librispeech-gpst",
    source="GPST (arXiv 2406.00976, section 4): LibriSpeech test-clean, utterances of 4 to 10 s, "
    "word errors by HuBERT-large CTC; prompts of 3 s",
    rule="ids sorted, 4 to 10 s by the header; prompt: another speaker and one of that speaker's "
    f"utterances by SHA-256 of (seed {SEED}, item, name); the paper does not publish its prompts",
    modes={
        "gpst": ("semantic_to_acoustic", "speaker_transfer", "continuation"),
        "flow": ("voice_conversion",),
        "soundstorm": ("voice_conversion",),
    },
    choose=choose_gpst,
    wer=("wer/hubert-large-ls960-ctc",),
)

CROSS_SENTENCE = ListedTask(
    name="librispeech-1127",
    source="F5-TTS (arXiv 2410.06885): LibriSpeech-PC test-clean, cross-sentence, 1,127 pairs in "
    "data/librispeech_pc_test_clean_cross_sentence.lst of SWivid/F5-TTS",
    rule="the published list, in its order",
    modes={"gpst": ("tts",), "flow": ("tts",), "soundstorm": ("tts",)},
    choose=choose_cross_sentence,
    wer=("wer/whisper-large-v3-english",),
    published=1127,
)
