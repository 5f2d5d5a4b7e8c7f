"""In every codebook pattern cached decoding equals teacher forcing, alone and in a batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.tokens import EOS, TokenLayout, segment_tokens
from gpst_jax.config import ConfigError, GPSTConfig, TransformerConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_sampler import Decoder, Request
from gpst_jax.generation.guards import Guards
from gpst_jax.models import gpst

LAYOUT = TokenLayout(num_units=11, num_codebooks=3, codebook_size=5, unit_rate=50, frame_rate=75)
NETS = TransformerConfig(16, 2, 2, 24), TransformerConfig(8, 1, 2, 12)
LENGTH, BUDGET = 64, 32
GREEDY = SamplingConfig(top_k=1)


class Toy:
    """A model of one pattern, its decoder, and log-probabilities by teacher forcing."""

    def __init__(self, pattern, block, random_params, **fields):
        self.config = GPSTConfig(*NETS, pattern=pattern, block=block, max_positions=300, **fields)
        self.positions = "running" if block == "paper" else "time"
        params = random_params(self.config, LAYOUT)
        self.decoder = Decoder(self.config, LAYOUT, params, self.positions)
        self.model = gpst.bind(self.config, LAYOUT, params)
        self.log_probs = jax.jit(self._log_probs)

    def segment(self, parts):
        return segment_tokens(LAYOUT, parts, positions=self.positions)

    def _log_probs(self, batch):
        """Of all classes of units (B, L, V_s) and of codes (B, F, Q, classes)."""
        line = self.model.arrange(batch)
        hidden = self.model.hidden(*line.inputs)
        codes = self.model.code_logits(hidden, line.frame_index, batch["frames"])
        codes = codes.reshape(*batch["frames"].shape, -1)
        units = self.model.semantic_logits(line.of_row(hidden))
        return jax.nn.log_softmax(units), jax.nn.log_softmax(codes)

    def forced(self, requests, results, pack_rows):
        """Log-probabilities by teacher forcing of what was given and sampled."""
        rows = []
        for request, result in zip(requests, results, strict=True):
            units = np.concatenate([request.units, result.units])
            codes = np.concatenate([request.codes, result.codes], axis=1)
            parts, at = [], (0, 0)
            for size in (request.part_lengths or [])[:-1]:
                end = at[0] + size[0], at[1] + size[1]
                parts.append((units[at[0] : end[0]], codes[:, at[1] : end[1]]))
                at = end
            rows.append([self.segment([*parts, (units[at[0] :], codes[:, at[1] :])])])
        batch = pack_rows(rows, LENGTH, BUDGET)
        return batch, *(np.array(x) for x in self.log_probs(batch))


@pytest.fixture(scope="module", params=["flat", "delay", "parallel", "flat-paper", "delay-paper"])
def toy(request, random_params):
    pattern, _, block = request.param.partition("-")
    return Toy(pattern, block or "modern", random_params)


@pytest.fixture(scope="module")
def requests(random_part):
    """Given and sampled parts of different lengths: those of all modes of generation."""
    rng, out = np.random.default_rng(0), []
    for i, (units, frames) in enumerate([(0, 0), (4, 0), (3, 1), (7, 2), (5, 7), (12, 9)]):
        given = random_part(LAYOUT, rng, units, frames)
        more = 9 if frames == 0 else 0
        out.append(Request(*given, max_units=more, max_frames=6 + i, min_frames=i, item=i))
    # A prompt of joined parts, whose streams end at different times.
    units, codes = random_part(LAYOUT, rng, 9, 6)
    lengths = [(3, 5), (1, 1), (5, 8)]
    out.append(Request(units, codes, max_frames=8, min_frames=8, part_lengths=lengths, item=6))
    out.append(Request(units, codes[:, :0], max_units=3, item=7))  # units alone
    return out


@pytest.fixture(scope="module")
def results(toy, requests):
    return toy.decoder.decode(requests, seed=3)


def test_sampled_log_probabilities_are_those_of_teacher_forcing(toy, requests, results, pack_rows):
    batch, semantic, acoustic = toy.forced(requests, results, pack_rows)
    classes = np.maximum(toy.model.targets(jnp.asarray(batch["frames"])), 0)
    of_codes = np.take_along_axis(acoustic, classes[..., None], axis=-1)[..., 0].sum(axis=-1)
    targets = np.maximum(batch["semantic_targets"], 0)
    of_units = np.take_along_axis(semantic, targets[..., None], axis=-1)[..., 0]
    ended = 0
    for row, (request, result) in enumerate(zip(requests, results, strict=True)):
        first = len(request.units)
        count = (len(result.units) + result.units_ended) * (request.max_units > 0)
        wanted = of_units[row, first : first + count].sum()
        assert result.log_prob_units == pytest.approx(wanted, abs=1e-4)
        first, count = request.codes.shape[1], result.codes.shape[1] + result.frames_ended
        wanted = of_codes[row, first : first + count].sum()
        assert result.log_prob_frames == pytest.approx(wanted, abs=1e-3)
        assert request.min_frames <= result.codes.shape[1] <= request.max_frames
        ended += result.frames_ended
    assert 0 < ended < len(requests)


def test_greedy_decoding_is_teacher_forcing_token_by_token(toy, requests, pack_rows):
    results = toy.decoder.decode(requests, semantic=GREEDY, acoustic=GREEDY)
    _, semantic, acoustic = toy.forced(requests, results, pack_rows)
    semantic[..., [0, 1, 3]] = acoustic[..., [0, 1, 3]] = acoustic[:, :, 1:, EOS] = -np.inf
    for row, (request, result) in enumerate(zip(requests, results, strict=True)):
        first = len(request.units)
        best = semantic[row, first : first + len(result.units)].argmax(-1)
        np.testing.assert_array_equal(result.units, best - 4)
        first, count = request.codes.shape[1], result.codes.shape[1]
        acoustic[row, first : first + request.min_frames, 0, EOS] = -np.inf
        best = acoustic[row, first : first + count].argmax(-1)
        np.testing.assert_array_equal(result.codes, best.T - 4)
        if result.frames_ended:
            assert acoustic[row, first + count, 0].argmax() == EOS


def test_an_item_alone_is_that_of_the_batch(toy, requests, results):
    place = 5 if toy.config.block == "modern" else 4
    (alone,) = toy.decoder.decode([requests[place]], seed=3)
    np.testing.assert_array_equal(alone.codes, results[place].codes)
    assert alone.frames_ended_by == results[place].frames_ended_by
    assert alone.log_prob_frames == pytest.approx(results[place].log_prob_frames, abs=1e-4)


def test_streamed_frames_are_those_of_decode(toy, requests, results):
    chunks = toy.decoder.stream_batch(requests, chunk_frames=3, seed=3)
    parts, streamed = [], []
    while True:
        try:
            parts.append(next(chunks))
        except StopIteration as stopped:
            streamed = stopped.value
            break
    assert len(parts) > 2
    for row, (one, result) in enumerate(zip(streamed, results, strict=True)):
        np.testing.assert_array_equal(one.codes, result.codes)
        joined = np.concatenate([part[row] for part in parts], axis=1)
        np.testing.assert_array_equal(joined, result.codes)
        assert max(part[row].shape[1] for part in parts) <= 3


def test_guards_cut_the_frames_that_are_decoded_without_them(requests, random_params):
    """A frame is watched when its last code is there."""
    toy = Toy("delay", "modern", random_params)
    longer = [dataclasses.replace(r, min_frames=12, max_frames=12) for r in requests[2:7]]
    cold = SamplingConfig(top_k=2)
    free = toy.decoder.decode(longer, seed=1, acoustic=cold)
    guards = Guards(
        silence_seconds=0, loop_repeats=0, repeat_seconds=3 / 75, collapse_seconds=4 / 75
    )
    guarded = toy.decoder.decode(longer, seed=1, acoustic=cold, guards=guards)
    stopped = 0
    for one, other in zip(guarded, free, strict=True):
        count = one.codes.shape[1]
        np.testing.assert_array_equal(one.codes, other.codes[:, :count])
        stopped += one.frames_ended_by.startswith("guard:")
        assert (count < 12) <= one.frames_ended_by.startswith("guard:")
    assert stopped


def test_one_head_for_all_codebooks_decodes_in_the_flat_pattern(random_params, pack_rows):
    toy = Toy("flat", "modern", random_params, shared_acoustic_head=True)
    request = Request(np.array([1, 2]), np.zeros((3, 0), int), max_frames=5, min_frames=5)
    results = toy.decoder.decode([request], acoustic=GREEDY)
    _, _, acoustic = toy.forced([request], results, pack_rows)
    acoustic[..., :4] = -np.inf
    np.testing.assert_array_equal(results[0].codes, acoustic[0, :5].argmax(-1).T - 4)


@pytest.mark.parametrize(("pattern", "longest"), [("flat", 98), ("delay", 295)])
def test_the_table_of_positions_bounds_requests(random_params, pattern, longest):
    """300 positions: BOS_s, a unit, and those that predict the frames and the end."""
    toy = Toy(pattern, "paper", random_params)
    request = Request(np.array([1]), np.zeros((3, 0), int), max_frames=longest)
    toy.decoder._sizes([request])
    with pytest.raises(ConfigError, match="table of 300"):
        toy.decoder._sizes([dataclasses.replace(request, max_frames=longest + 1)])
