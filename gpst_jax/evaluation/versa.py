"""Lists of generated and reference sound for VERSA (arXiv 2412.17667) and other scorers.

A directory of lists in Kaldi's form, `ID PATH` on each line:

    pred.scp  generated sound
    gt.scp    the recording of the prompt, or else of the source, of those samples that have one
    text      ID TEXT, of those samples that have one
    utt2spk   ID SPEAKER, likewise
"""

import re
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_text
from gpst_jax.evaluation.metrics.statistics import UNKNOWN
from gpst_jax.samples.manifest import Sample


def write_lists(directory: Path, samples: Sequence[Sample]) -> list[str]:
    """Writes the lists of one condition.

    Returns:
        Ids of samples whose sound is missing: they are in no list, and the scorer will not count
        them; `missing.txt` names them.

    Raises:
        UserError: an id has spaces, which such lists cannot hold, or a file cannot be written.
    """
    for sample in samples:
        if re.search(r"\s", sample.id):
            raise UserError(f"sample {sample.id!r}: ids of VERSA's lists have no spaces: rename it")
    there = [sample for sample in samples if sample.audio.is_file()]
    missing = [sample.id for sample in samples if not sample.audio.is_file()]
    references = {s.id: s.prompt_audio or s.source_audio for s in there}
    lists = {
        "pred.scp": {s.id: str(s.audio.resolve()) for s in there},
        "gt.scp": {id_: str(path.resolve()) for id_, path in references.items() if path},
        "text": {s.id: " ".join(s.text.split()) for s in there if s.text},
        "utt2spk": {s.id: s.speaker for s in there if s.speaker not in UNKNOWN},
        "missing.txt": dict.fromkeys(missing, ""),
    }
    for name, lines in lists.items():
        if lines:
            body = "".join(f"{id_} {value}".rstrip() + "\n" for id_, value in lines.items())
            write_text(directory / name, body)
    return missing
