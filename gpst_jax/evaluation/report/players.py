"""Audio players of the report page: conditions side by side with their spectrograms."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from data_pipeline.audio.io import AudioError, load_audio
from gpst_jax.evaluation.report import plots, tables
from gpst_jax.samples.manifest import SENTENCES, UNSEEN, Sample, first_of_seeded_order, read_samples

SAMPLE_RATE = 16000  # of the players and spectrograms, Hz
ITEMS = 4  # utterances with players, for seen and for unseen speakers
MAX_SECONDS = 8.0  # of one clip on the page


def data_uri(data: bytes, mime: str) -> str:
    """Bytes as a data URI."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def audio_uri(wav: np.ndarray, sample_rate: int) -> str:
    """A waveform (N,) as a data URI.

    MP3, which every browser plays, at a sixth of the size of WAV; WAV without an encoder.
    """
    buffer = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        soundfile.write(buffer, wav, sample_rate, format="MP3")
        return data_uri(buffer.getvalue(), "audio/mpeg")
    soundfile.write(buffer, wav, sample_rate, format="WAV", subtype="PCM_16")
    return data_uri(buffer.getvalue(), "audio/wav")


def escape(text: Any) -> str:
    """Text escaped for HTML."""
    return html.escape(str(text))


def picture(panels: Sequence[tuple[str, plots.Draw]], text: str, height: float = 3.0) -> str:
    """Charts side by side, for light and dark pages; `text` says what they are."""
    light, dark = (
        data_uri(plots.chart_png(panels, dark=dark, height=height), "image/png")
        for dark in (False, True)
    )
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img class="plot" src="{light}" alt="{escape(text)}"></picture>'
    )


def _player(label: str, path: Path | None, seconds: float, note: str = "") -> str:
    """One clip with its spectrogram, or the reason why it cannot be read."""
    if path is None:
        return ""
    caption = (
        f"<figcaption><b>{escape(label)}</b>{f'<br>{escape(note)}' if note else ''}</figcaption>"
    )
    try:
        wav = load_audio(path, SAMPLE_RATE)[: round(MAX_SECONDS * SAMPLE_RATE)]
    except AudioError as error:
        return f'<figure>{caption}<p class="none">{escape(error.reason)}</p></figure>'
    picture = data_uri(plots.spectrogram_png(wav, SAMPLE_RATE, seconds), "image/png")
    return (
        f'<figure>{caption}<img src="{picture}" alt="mel spectrogram">'
        f'<audio controls preload="metadata" src="{audio_uri(wav, SAMPLE_RATE)}"></audio></figure>'
    )


def _is_transfer(sample: Sample) -> bool:
    return sample.prompt_speaker not in (None, sample.speaker)


def _seconds(path: Path) -> float:
    try:
        return min(MAX_SECONDS, soundfile.info(path).duration)
    except (soundfile.SoundFileError, OSError):
        return 0.0


def _note(items: dict[str, dict[str, Any]], condition: str, sample: Sample) -> str:
    return tables.item_note(items.get(condition, {}).get(sample.id, {}))


def _utterance(
    id_: str, conditions: dict[str, dict[str, Sample]], items: dict[str, dict[str, Any]]
) -> str:
    """All conditions that render an utterance, side by side on one time axis."""
    rendered = {name: samples[id_] for name, samples in conditions.items() if id_ in samples}
    names = tables.in_order(list(rendered))
    first = rendered[names[0]]
    shown = [sample.audio for sample in rendered.values()]
    shown += [s.prompt_audio for s in rendered.values() if _is_transfer(s) and s.prompt_audio]
    seconds = max(_seconds(path) for path in shown) or 1.0
    players = ""
    for name in names:
        sample = rendered[name]
        label = tables.CONDITIONS.get(name.removesuffix(UNSEEN), tables.condition_name(name))
        if _is_transfer(sample):
            label += f", voice of {sample.prompt_speaker}"
            players += _player(
                f"prompt of {sample.prompt_speaker}", sample.prompt_audio, seconds, "recording"
            )
        players += _player(label, sample.audio, seconds, _note(items, name, sample))
    title = f"“{escape(first.text)}”" if first.text else escape(id_)
    voice = f"<span>{escape(first.speaker)}</span>" if first.speaker != "unknown" else ""
    return _block(f"{title} {voice}", players)


def listening_section(samples_dir: str | Path, items: dict[str, dict[str, Any]]) -> str:
    """HTML with players of a few utterances in every condition.

    Args:
        samples_dir: directory of the conditions.
        items: condition -> sample id -> scores, to show transcripts.

    Raises:
        UserError: the samples cannot be read.
    """
    conditions = read_samples(samples_dir)
    out = (
        "<h2>Listen</h2><p>Each block is one utterance; its spectrograms share their time axis.</p>"
    )
    titles = {
        "": "",
        SENTENCES: "<h3>Sentences</h3>",
        UNSEEN: "<h3>Voices that training never heard</h3>",
    }
    for suffix, title in titles.items():
        group = {
            name: {s.id: s for s in samples}
            for name, samples in conditions.items()
            if _suffix(name) == suffix
        }
        paired = {n: c for n, c in group.items() if any(s.pair for s in c.values())}
        matched = {n: c for n, c in group.items() if n not in paired}
        if not group:
            continue
        out += title
        for id_ in _shown_ids(matched.values()):
            out += _utterance(id_, matched, items)
        for name, samples in paired.items():
            out += _renditions(name, list(samples.values()), items)
    return out


def _suffix(condition: str) -> str:
    """The part of a condition's name that says where it is shown."""
    return next((end for end in (UNSEEN, SENTENCES) if condition.endswith(end)), "")


def _shown_ids(conditions: Iterable[dict[str, Sample]]) -> list[str]:
    """Ids of utterances in a seeded order, those that most conditions render first."""
    conditions = list(conditions)
    every = {id_: sample for samples in conditions for id_, sample in samples.items()}
    ordered = [s.id for s in first_of_seeded_order(list(every.values()), len(every), seed=1)]
    ordered.sort(key=lambda id_: -sum(id_ in samples for samples in conditions))
    return ordered[:ITEMS]


def _renditions(name: str, samples: Sequence[Sample], items: dict[str, dict[str, Any]]) -> str:
    pairs: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.pair is not None:
            pairs.setdefault(sample.pair, []).append(sample)
    rows = ""
    for pair in list(pairs.values())[: max(1, ITEMS // 2)]:
        seconds = max(_seconds(sample.audio) for sample in pair) or 1.0
        players = ""
        for i, sample in enumerate(pair, 1):
            note = _note(items, name, sample)
            label = f"units {sample.pair}, rendition {i}"
            players += _player(label, sample.audio, seconds, note)
        rows += f'<div class="players">{players}</div>'
    title = escape(tables.condition_name(name))
    return f'<section class="item"><h3>{title}</h3>{rows}</section>'


def _block(title: str, players: str) -> str:
    return f'<section class="item"><h3>{title}</h3><div class="players">{players}</div></section>'
