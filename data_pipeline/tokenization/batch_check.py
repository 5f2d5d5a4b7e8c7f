"""How often tokens differ between batched and single encoding, on a sample of the corpus."""

from collections.abc import Sequence

import numpy as np

from data_pipeline.audio.io import AudioError
from data_pipeline.sources import Utterance, read_audio
from data_pipeline.tokenizers.base import AcousticCodec, BatchTokenizer, SemanticTokenizer
from data_pipeline.tokenizers.batching import mismatch

SAMPLE = 16  # recordings compared
_MAX_SECONDS = 10.0  # of each, from its beginning


def batch_mismatches(
    utterances: Sequence[Utterance],
    semantic: SemanticTokenizer,
    codec: AcousticCodec,
    min_seconds: float,
) -> dict[str, int]:
    """Encodes a sample one by one and in batches, and counts the differences.

    Args:
        utterances: of the corpus; the sample is spread evenly over them.
        semantic: the semantic tokenizer.
        codec: the acoustic codec.
        min_seconds: shorter recordings are skipped.

    Returns:
        For the statistics of `dataset.json`: how many tokens were compared,
        `STREAM_batch_tokens`, and how many differ, `STREAM_batch_different`, for each stream whose
        tokenizer works in batches.
    """
    streams: dict[str, SemanticTokenizer | AcousticCodec] = {"semantic": semantic, "codec": codec}
    batched = [name for name, one in streams.items() if isinstance(one, BatchTokenizer)]
    if not batched or not utterances:
        return {}
    rate, wavs = codec.sample_rate, []
    places = np.linspace(0, len(utterances) - 1, min(SAMPLE, len(utterances))).astype(int)
    for place in places:
        try:
            wav = read_audio(utterances[place], rate, min_seconds)
        except AudioError:
            continue  # listed in the failure manifest
        wavs.append(wav[: round(_MAX_SECONDS * rate)])
    counts = {}
    for name in batched:
        try:
            found = mismatch(streams[name], wavs, rate)
        except (AudioError, ValueError):
            continue  # the tokenizer refuses a recording: likewise
        counts[f"{name}_batch_tokens"] = found.tokens
        counts[f"{name}_batch_different"] = found.different
    return counts
