"""Which items become conditions: digit strings, sentences beside them, and unseen speakers."""

from types import SimpleNamespace

import pytest

from gpst_jax.samples import writer as writer_module
from gpst_jax.samples.writer import SampleWriter


class _Items:
    """Stands for an ItemSet: so many digit strings and sentences in each split."""

    def __init__(self, dataset_dir, spec, split, audio_dir, **options):
        self.counts = spec.splits[split]

    def choose(self, count):
        return ["digits"] * min(count, self.counts[0])

    def choose_sentences(self, count):
        return ["sentence"] * min(count, self.counts[1])


@pytest.fixture
def make(monkeypatch, tmp_path):
    monkeypatch.setattr(writer_module, "ItemSet", _Items)

    def made(**splits):
        spec = SimpleNamespace(splits=splits, silence=SimpleNamespace(units=[0], codes=[[0]]))
        return SampleWriter(
            tmp_path, spec, tmp_path, tmp_path, provenance={}, seed=0, workers=1, report=str
        )

    return made


def found(writer, *counts):
    return [(suffix, len(chosen)) for _, chosen, suffix in writer.splits(*counts)]


def test_sentences_of_seen_speakers_stand_between(make):
    both = make(valid=(10, 10), unseen=(10, 10))
    assert found(both, 8, 2, 3) == [("", 8), ("_sentences", 3), ("_unseen", 2)]
    assert found(both, 8, 2) == [("", 8), ("_unseen", 2)]
    assert found(make(valid=(10, 0), unseen=(10, 0)), 8, 2, 3) == [("", 8), ("_unseen", 2)]
    assert found(both, 0, 2, 3) == [("_unseen", 2)]
