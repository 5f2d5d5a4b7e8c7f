"""Synthesises a small corpus: strings of digits and short sentences in twelve voices.

    python -m data_pipeline.synthesize_corpus --output=DIR [--languages=en,de,es]

The corpus is a folder source like any other: 16 kHz FLAC files and `manifest.csv` with the columns
path, speaker, text, language, split and text_kind (digits or free). Ten voices are for training,
two are held out; each of them speaks all languages, English alone by default. No digit string of
the validation or held-out items occurs in training.

With `--questions_per_voice` each voice also asks and answers questions in English;
`dialogues.jsonl` pairs them, in the format that data_pipeline.build_sequences reads.

Utterances are synthesised in chunks, each in a fresh process because espeak-ng keeps hidden state:
the corpus is the same for any number of processes, and an interrupted run resumes where it stopped.
"""

import csv
import dataclasses
import io
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import flags

from data_pipeline.audio.io import resample, write_audio
from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json, write_text
from data_pipeline.runtime.progress import progress
from data_pipeline.synthetic.espeak import Espeak
from data_pipeline.synthetic.languages import LANGUAGES
from data_pipeline.synthetic.questions import KINDS, Question, is_open, sample_question

SAMPLE_RATE = 16_000

_CHUNK_UTTERANCES = 200  # per process: enough to amortise its start
_GAIN = 0.9  # some voices reach full scale, and resampling overshoots a little
_FREE_EVERY = 9  # every ninth text is a sentence
_VERSION = 1  # of texts and signals: raise it with any change of either


@dataclass(frozen=True)
class Voice:
    """A variant of eSpeak NG's voices: the same speaker in every language."""

    name: str
    pitch: int = 50


# Chosen from 62 variants by a small recogniser's accuracy on their digits, because the corpus is
# for measuring intelligibility. Of the held-out voices, klatt3 is male and f3 female, and a speaker
# encoder tells both apart from every training voice.
TRAIN_VOICES = (
    Voice("klatt4"),
    Voice("klatt2"),
    Voice("benjamin"),
    Voice("edward"),
    Voice("announcer"),
    Voice("caleb"),
    Voice("m6"),
    Voice("michel"),
    Voice("f5"),
    Voice("f2", pitch=75),
)
UNSEEN_VOICES = (Voice("klatt3"), Voice("f3"))

_ENGLISH = "en"


@dataclass(frozen=True)
class CorpusConfig:
    """Everything that the texts and signals of a corpus depend on.

    Raises:
        UserError: a language is not in the table or comes twice, or questions lack English.
    """

    utterances_per_voice: int = 560  # in each language, as are the next two
    valid_per_voice: int = 27
    unseen_per_voice: int = 60
    questions_per_voice: int = 0  # in training; a tenth in validation, a third for unseen voices
    seed: int = 0
    version: int = _VERSION
    languages: tuple[str, ...] = (_ENGLISH,)

    def __post_init__(self):
        chosen = ",".join(self.languages)
        if not chosen or len(set(self.languages)) < len(self.languages):
            raise UserError(f"--languages={chosen}: name each language once")
        if unknown := sorted(set(self.languages) - set(LANGUAGES)):
            raise UserError(f"--languages={unknown[0]}: choose from {', '.join(LANGUAGES)}")
        if self.questions_per_voice and _ENGLISH not in self.languages:
            raise UserError(f"--languages={chosen}: questions are in English: add en")

    def settings(self) -> dict:
        """The fields as JSON values; corpora of older versions name no languages."""
        values = dataclasses.asdict(self) | {"languages": list(self.languages)}
        if values["languages"] == [_ENGLISH]:
            del values["languages"]
        return values


@dataclass(frozen=True)
class Item:
    """One utterance to synthesise."""

    path: str  # relative to the corpus
    voice: Voice
    text: str
    split: str
    text_kind: str  # digits or free
    language: str = _ENGLISH


def plan_corpus(config: CorpusConfig) -> list[Item]:
    """Every utterance of a corpus, by language, split and voice: a function of the config."""
    items = [item for code in config.languages for item in _plan_language(config, code)]
    for _, question, answer in plan_dialogues(config):
        items += [question, answer]
    return items


def _plan_language(config: CorpusConfig, code: str) -> Iterator[Item]:
    place = list(LANGUAGES).index(code)
    # The stream of dialogues is 1; English was alone once, and has none.
    rng = np.random.default_rng([config.seed, _VERSION, *([1 + place] if place else [])])
    held: set[str] = set()  # digit strings kept out of training
    for split, voices, count, shortest in (
        ("valid", TRAIN_VOICES, config.valid_per_voice, 4),
        ("unseen", UNSEEN_VOICES, config.unseen_per_voice, 4),
        ("train", TRAIN_VOICES, config.utterances_per_voice, 3),
    ):
        avoid, used = (held, set()) if split == "train" else (set(), held)
        yield from _plan_split(rng, code, split, voices, count, shortest, avoid, used)


def plan_dialogues(config: CorpusConfig) -> list[tuple[str, Item, Item]]:
    """Every dialogue of a corpus: its id, the question and its answer, in one voice.

    Questions about three digits in validation or by unseen voices do not occur in training.
    """
    rng = np.random.default_rng([config.seed, _VERSION, 1])
    count = config.questions_per_voice
    held: set[str] = set()
    found = []
    for split, voices, number in (
        ("valid", TRAIN_VOICES, -(-count // 10)),
        ("unseen", UNSEEN_VOICES, -(-count // 3)),
        ("train", TRAIN_VOICES, count),
    ):
        for voice in voices:
            for place in range(number):
                question = sample_question(rng, KINDS[place % len(KINDS)])
                while split == "train" and question.text in held:
                    question = sample_question(rng, question.kind)
                if split != "train" and is_open(question):
                    held.add(question.text)
                found.append(_dialogue(question, voice, split, place))
    return found


def _dialogue(question: Question, voice: Voice, split: str, place: int) -> tuple[str, Item, Item]:
    name = f"{voice.name}/{split}_{place:05d}"
    asked = Item(f"audio/{name}_question.flac", voice, question.text, split, "free")
    answered = Item(f"audio/{name}_answer.flac", voice, question.answer, split, "digits")
    return name, asked, answered


def _plan_split(
    rng: np.random.Generator,
    code: str,
    split: str,
    voices: tuple[Voice, ...],
    count: int,
    shortest: int,
    avoid: set[str],
    used: set[str],
) -> Iterator[Item]:
    """Yields the items of a split; its digit strings are not in `avoid` and are added to `used`."""
    language = LANGUAGES[code]
    name = split if code == _ENGLISH else f"{code}_{split}"
    for voice in voices:
        for number in range(count):
            free = number % _FREE_EVERY == _FREE_EVERY - 1
            text = language.sentence(rng) if free else language.digit_string(rng, shortest)
            while not free and text in avoid:
                text = language.digit_string(rng, shortest)
            used.add(text)
            path = f"audio/{voice.name}/{name}_{number:05d}.flac"
            yield Item(path, voice, text, split, "free" if free else "digits", code)


def synthesize_corpus(
    output: str | os.PathLike[str], config: CorpusConfig, num_workers: int | None = None
) -> dict:
    """Writes a corpus, or the part of it that is missing.

    Returns:
        Counts: utterances (per split), chunks and how many existed already, wall seconds.

    Raises:
        UserError: the directory cannot be written, or holds a corpus of another config.
    """
    start = time.monotonic()
    output = Path(output)
    _claim(output, config)
    items = plan_corpus(config)
    chunks = _chunks(items)
    missing = [c for c in chunks if not all((output / item.path).is_file() for item in c)]
    num_workers = max(1, min(num_workers or os.cpu_count() or 1, len(missing)))
    with (
        progress("synthesise speech", sum(map(len, missing))) as advance,
        ProcessPoolExecutor(
            num_workers, multiprocessing.get_context("spawn"), max_tasks_per_child=1
        ) as pool,
    ):
        futures = {pool.submit(_speak_chunk, str(output), chunk): chunk for chunk in missing}
        try:
            for future in as_completed(futures):
                future.result()
                advance(len(futures[future]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    write_text(output / "manifest.csv", _manifest(items))
    if config.questions_per_voice:
        write_text(output / "dialogues.jsonl", _dialogues(plan_dialogues(config)))
    return {
        "output": str(output),
        "utterances": {
            split: sum(item.split == split for item in items)
            for split in ("train", "valid", "unseen")
        },
        "voices": {"train": len(TRAIN_VOICES), "unseen": len(UNSEEN_VOICES)},
        "chunks": len(chunks),
        "chunks_done_before": len(chunks) - len(missing),
        "seconds": round(time.monotonic() - start, 2),
    }


def _claim(output: Path, config: CorpusConfig) -> None:
    """Marks a directory as this corpus, or refuses one that holds another."""
    path, settings = output / "corpus.json", config.settings()
    try:
        existing = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_json(path, settings)
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): name another --output") from error
    if existing != settings:
        raise UserError(
            f"{output} holds a corpus made with {existing}, not {settings}: name another --output "
            "or delete the directory"
        )


def _chunks(items: list[Item]) -> list[list[Item]]:
    """Splits the plan where language, voice or split changes, and every 200 utterances."""
    chunks: list[list[Item]] = []
    for item in items:
        last = chunks[-1][-1] if chunks else None
        key = (item.language, item.voice, item.split)
        same = last and (last.language, last.voice, last.split) == key
        if not same or len(chunks[-1]) == _CHUNK_UTTERANCES:
            chunks.append([])
        chunks[-1].append(item)
    return chunks


def _speak_chunk(output: str, chunk: list[Item]) -> None:
    """Synthesises and writes one chunk; runs in its own process."""
    espeak = Espeak()
    for item in chunk:
        language = LANGUAGES[item.language]
        wav = espeak.synthesize(
            language.spoken(item.text) if item.text_kind == "digits" else item.text,
            f"{language.voice}+{item.voice.name}",
            rate=language.rate,
            pitch=item.voice.pitch,
        )
        path = Path(output, item.path)
        # A killed run leaves no half-written file under a final name.
        temporary = path.with_name(f".partial-{path.name}")
        write_audio(temporary, _GAIN * resample(wav, espeak.sample_rate, SAMPLE_RATE), SAMPLE_RATE)
        temporary.replace(path)


def _manifest(items: list[Item]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("path", "speaker", "text", "language", "split", "text_kind"))
    for item in items:
        row = (item.path, item.voice.name, item.text, item.language, item.split, item.text_kind)
        writer.writerow(row)
    return table.getvalue()


def _dialogues(planned: list[tuple[str, Item, Item]]) -> str:
    lines = [
        {
            "id": name,
            "split": question.split,
            "question_record": question.path.removesuffix(".flac"),  # as a folder source names it
            "answer_record": answer.path.removesuffix(".flac"),
        }
        for name, question, answer in planned
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def _define_flags() -> None:
    """Defined when run as a program only: other programs import this module."""
    default = CorpusConfig()
    flags.DEFINE_string(
        "output", None, "Directory of the corpus; created if missing.", required=True
    )
    flags.DEFINE_integer(
        "utterances_per_voice",
        default.utterances_per_voice,
        "Training utterances of each training voice in each language.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "valid_per_voice",
        default.valid_per_voice,
        "Validation utterances of each training voice in each language.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "unseen_per_voice",
        default.unseen_per_voice,
        "Utterances of each held-out voice in each language.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "questions_per_voice",
        default.questions_per_voice,
        "Questions in English, each with its answer, of each training voice.",
        lower_bound=0,
    )
    flags.DEFINE_list(
        "languages", list(default.languages), f"Of {', '.join(LANGUAGES)}: what each voice speaks."
    )
    flags.DEFINE_integer("seed", default.seed, "Seeds the texts.", lower_bound=0)
    flags.DEFINE_integer("num_workers", os.cpu_count() or 1, "Processes.", lower_bound=1)


def main(argv: list[str]) -> int:
    """Runs the program; see the module."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    given = flags.FLAGS
    config = CorpusConfig(
        given.utterances_per_voice,
        given.valid_per_voice,
        given.unseen_per_voice,
        given.questions_per_voice,
        given.seed,
        languages=tuple(given.languages),
    )
    result = synthesize_corpus(given.output, config, given.num_workers)
    counts = result["utterances"]
    print(
        f"{sum(counts.values())} utterances ({counts['train']} train, {counts['valid']} valid, "
        f"{counts['unseen']} unseen) in {result['output']}, {result['seconds']} s"
    )
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    return 0


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
