"""What one piece of speech is made of: requests, the modes of each family, manifests of many."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.generation.gpst_modes import check_modes


@dataclasses.dataclass(frozen=True)
class Mode:
    """What a mode takes.

    Attributes:
        needs: inputs that must be there.
        takes: inputs that may be there too.
        language_model: whether one is needed.
    """

    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    language_model: bool = False


_TTS = Mode(("text",), ("prompt", "seconds"), language_model=True)
# Multilingual transfer is speaker_transfer: neither units nor prompts know a language.
_GPST = {
    "unconditional": Mode((), ("seconds",)),
    "semantic_to_acoustic": Mode(("source",)),
    "speaker_transfer": Mode(("source", "prompt")),
    "continuation": Mode(("source",), ("seconds",)),
    "speech_continuation": Mode(("source",), ("seconds",)),
    "tts": _TTS,
}
_PERCEPTUAL = {
    "tts": _TTS,
    "voice_conversion": Mode(("source", "prompt")),
    "dialogue": Mode(("source",), ("prompt", "seconds"), language_model=True),
}
MODES = {"gpst": _GPST, "flow": _PERCEPTUAL, "soundstorm": _PERCEPTUAL}
_INPUTS = ("source", "prompt", "text", "seconds")
_LARGEST_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechRequest:
    """One piece of speech to make.

    Attributes:
        mode: a key of `MODES` of the model's family.
        id: names it in results, and its file where there are several.
        source: recording of what is said, or of its beginning.
        prompt: recording of the voice.
        text: what is said.
        seconds: unconditional, tts and dialogue: longest speech; continuation: how much of the
            source is given; speech_continuation: how much is added at most. None: the default.
        seed: of all that is sampled for it; equal seeds give equal speech, alone or in a batch.
        where: names the request in messages, such as a line of a manifest.
    """

    mode: str
    id: str = "speech"
    source: Path | None = None
    prompt: Path | None = None
    text: str | None = None
    seconds: float | None = None
    seed: int = 0
    where: str = ""

    def name(self, field: str) -> str:
        """How messages call an input: the flag, or the key of a line."""
        return f"{self.where}: {field}" if self.where else f"--{field}"

    def check(
        self,
        modes: dict[str, Mode],
        family: str,
        with_language_model: bool,
        with_units: bool = True,
    ) -> None:
        """Raises UserError unless a model can make it.

        Args:
            modes: of the model.
            family: of the model, for messages.
            with_language_model: whether there is one.
            with_units: whether the model has units, see `gpst_modes.check_modes`.
        """
        mode = modes.get(self.mode)
        if mode is None:
            others = [name for name, of_family in MODES.items() if self.mode in of_family]
            reason = (
                f"is for models of family {' or '.join(map(repr, others))}, this one is of family "
                f"{family!r}"
                if others
                else "unknown"
            )
            raise UserError(
                f"{self.name('mode')}={self.mode}: {reason}; choose from {', '.join(modes)}"
            )
        check_modes(self.name("mode"), (self.mode,), with_units)
        if mode.language_model and not with_language_model:
            raise UserError(
                f"{self.name('mode')}={self.mode} needs a language model: give --lm_workdir"
            )
        for field in _INPUTS:
            given = getattr(self, field) is not None
            if field in mode.needs and not given:
                raise UserError(f"{self.name(field)}: missing, the mode {self.mode} needs it")
            if given and field not in (*mode.needs, *mode.takes):
                raise UserError(f"{self.name(field)}: the mode {self.mode} does not take it")
        if self.text is not None and not self.text.strip():
            raise UserError(f"{self.name('text')}: empty, there is nothing to say")
        if self.seconds is not None and not 0 < self.seconds < 36_000:
            raise UserError(f"{self.name('seconds')}={self.seconds}: give a positive number")
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise UserError(f"{self.name('seed')}={self.seed}: not in 0 .. {_LARGEST_SEED}")


def read_requests(path: str | Path, default: SpeechRequest) -> list[SpeechRequest]:
    """The requests of a manifest: a JSON object a line, with fields of `SpeechRequest`.

    Args:
        path: of the manifest; recordings are named relative to its folder.
        default: gives the fields that a line lacks.

    Raises:
        UserError: it cannot be read, or a line is no request; the message names the line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--manifest={path}: cannot be read: {error}") from error
    found: dict[str, SpeechRequest] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        request = _request(line, path.parent, where, default)
        if request.id in found:
            raise UserError(f"{where}: the id {request.id!r} comes twice")
        found[request.id] = request
    if not found:
        raise UserError(f"--manifest={path}: holds no lines")
    return list(found.values())


_TYPES: dict[str, Any] = {
    "id": str, "mode": str, "source": str, "prompt": str, "text": str,
    "seconds": (int, float), "seed": int,
}  # fmt: skip


def _request(line: str, folder: Path, where: str, default: SpeechRequest) -> SpeechRequest:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{where}: a JSON object is expected, not {type(values).__name__}")
    values = {name: value for name, value in values.items() if value is not None}
    for name, value in values.items():
        if name not in _TYPES:
            raise UserError(f"{where}: unknown key {name!r}; the keys are {', '.join(_TYPES)}")
        if not isinstance(value, _TYPES[name]) or isinstance(value, bool) or value == "":
            raise UserError(f"{where}: {name} must not be {value!r}")
    if not values.get("id"):
        raise UserError(f"{where}: id is missing")
    if Path(values["id"]).name != values["id"] or values["id"].startswith("."):
        raise UserError(f"{where}: id {values['id']!r} names a file: no slash, no dot in front")
    for name in ("source", "prompt"):
        if name in values:
            values[name] = folder / values[name]
    if "text" in values and "mode" not in values and not default.mode:
        values["mode"] = "tts"
    request = dataclasses.replace(default, where=where, **values)
    if not request.mode:
        raise UserError(f"{where}: mode is missing, give it there or as --mode")
    return request


def check_all(
    requests: Sequence[SpeechRequest],
    family: str,
    with_language_model: bool,
    with_units: bool = True,
) -> None:
    """`SpeechRequest.check` of each, before any work."""
    for request in requests:
        request.check(MODES[family], family, with_language_model, with_units)
