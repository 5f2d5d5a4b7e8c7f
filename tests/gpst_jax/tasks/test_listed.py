"""Generation of a listed task: complete, resumable, and the same after any interruption."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from stored_archive import unpack_with_recordings

from data_pipeline.runtime.errors import UserError
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.samples import writer
from gpst_jax.samples.manifest import read_samples
from gpst_jax.synthesis.gpst import GPSTSettings
from gpst_jax.synthesis.models import open_model
from gpst_jax.synthesis.synthesizer import SynthesisSettings, Synthesizer
from gpst_jax.tasks import listed
from gpst_jax.tasks.base import Item, ItemList, ListedTask, complete

RATE = 16_000
TASK = ListedTask(
    name="toy",
    source="these tests",
    rule="four recordings",
    modes={"gpst": ("semantic_to_acoustic", "speaker_transfer"), "flow": ("voice_conversion",)},
    choose=lambda request: ItemList((), request.corpus_dir),
)
# Sampled, not greedy: what an item becomes must not depend on its batch.
SAMPLED = SamplingConfig(temperature=1.0)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return unpack_with_recordings(tmp_path_factory.mktemp("stored"))


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    items = []
    for number in range(4):
        speaker, other = ("anna", "bert") if number % 2 else ("bert", "anna")
        # As speech to an energy detector: noise of changing loudness.
        envelope = np.repeat(random.uniform(0.05, 0.3, 24), 800)
        wav = envelope * random.standard_normal(24 * 800)
        soundfile.write(root / f"{number}.wav", wav, RATE)
        items.append(
            Item(
                id=f"item-{number}",
                speaker=speaker,
                text="one two",
                source=f"{number}.wav",
                prompt=f"{(number + 1) % 4}.wav",
                prompt_speaker=other,
                language="en",
            )
        )
    return complete(items, root, "toy")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(
        writer,
        "ProcessPoolExecutor",
        lambda workers, mp_context, **options: ThreadPoolExecutor(1, **options),
    )


@pytest.fixture(scope="module")
def model(stored):
    return open_model(stored / "runs" / "gpst", dataset=stored / "tokens")


def samples(model, chosen, output, batch_size=2, report=lambda line: None):
    settings = SynthesisSettings(
        gpst=GPSTSettings(SAMPLED, SAMPLED, guards=None),
        prompt_seconds=1.0,
        batch_size=batch_size,
    )
    return listed.ListedSamples(TASK, chosen, model, None, output, settings, 1, report)


@pytest.fixture(scope="module")
def whole(model, chosen, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            writer,
            "ProcessPoolExecutor",
            lambda workers, mp_context, **options: ThreadPoolExecutor(1, **options),
        )
        output = tmp_path_factory.mktemp("whole")
        made = samples(model, chosen, output)
        counts = made.run()
    return output, counts, made.describe()


def audio(output):
    """Bytes of every wav file below a directory, by name."""
    return {
        str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*.wav"))
    }


def test_every_condition_holds_every_item(whole, chosen):
    output, counts, about = whole
    conditions = read_samples(output)
    names = {"recording", "codec", "semantic_to_acoustic", "speaker_transfer"}
    assert set(conditions) == set(counts) == names
    assert set(counts.values()) == {4}
    for group in conditions.values():
        assert [sample.id for sample in group] == [item.id for item in chosen.items]
        for sample in group:
            assert sample.audio.is_file()
            assert sample.source_audio.is_file()
            assert (sample.text, sample.text_kind, sample.language) == ("one two", "digits", "en")
    for sample in conditions["speaker_transfer"]:
        assert sample.prompt_audio.is_file()
        assert sample.prompt_speaker != sample.speaker
    # A ceiling's prompt is another recording of its own speaker.
    ceiling = conditions["recording"][0]
    assert ceiling.prompt_speaker == ceiling.speaker
    assert ceiling.prompt_audio.read_bytes() != ceiling.audio.read_bytes()
    assert sum(about["ended_by"]["speaker_transfer"].values()) == 4
    assert "refused" not in about


def test_what_was_interrupted_goes_on_and_gives_the_same(
    whole, model, chosen, tmp_path, monkeypatch
):
    written, write = [], listed.write_speech

    def killed_later(path, wav, rate):
        if len(written) == 12:  # within a batch of the first mode
            raise KeyboardInterrupt
        written.append(path)
        write(path, wav, rate)

    monkeypatch.setattr(listed, "write_speech", killed_later)
    with pytest.raises(KeyboardInterrupt):
        samples(model, chosen, tmp_path).run()
    monkeypatch.setattr(listed, "write_speech", write)
    made, generate = [], Synthesizer.generate
    monkeypatch.setattr(
        Synthesizer,
        "generate",
        lambda self, requests: made.append(len(requests)) or generate(self, requests),
    )
    # Another size of batches than that of the run that was not interrupted.
    counts = samples(model, chosen, tmp_path, batch_size=3).run()
    assert sum(made) < 8  # what was finished is kept
    assert counts == whole[1]
    assert audio(tmp_path) == audio(whole[0])


def test_a_directory_of_another_task_is_refused(whole, model, chosen):
    fewer = chosen.few(3)
    with pytest.raises(UserError, match="they differ in items"):
        samples(model, fewer, whole[0]).run()


def test_what_cannot_be_made_is_a_failure_and_leaves_the_others(
    whole, model, chosen, tmp_path, monkeypatch
):
    prepare = Synthesizer.prepare

    def refuse_one(self, requests):
        if any(request.id == "item-2" for request in requests):
            raise UserError("item item-2: source: holds no speech")
        return prepare(self, requests)

    monkeypatch.setattr(Synthesizer, "prepare", refuse_one)
    lines = []
    made = samples(model, chosen, tmp_path, report=lines.append)
    assert made.run()["speaker_transfer"] == 4
    by_id = {sample.id: sample for sample in read_samples(tmp_path)["speaker_transfer"]}
    assert [name for name, sample in by_id.items() if not sample.audio.exists()] == ["item-2"]
    reasons = made.describe()["refused"]["speaker_transfer"]
    assert reasons == {"item-2": "item item-2: source: holds no speech"}
    assert any("holds no speech" in line for line in lines)
    ours, theirs = audio(tmp_path / "speaker_transfer"), audio(whole[0] / "speaker_transfer")
    assert ours == {name: wav for name, wav in theirs.items() if name != "item-2.wav"}


def test_models_that_a_task_is_not_for(stored, chosen, tmp_path):
    model = open_model(stored / "runs" / "soundstorm", dataset=stored / "tokens")
    with pytest.raises(UserError, match=r"family gpst or flow.* of family 'soundstorm'"):
        samples(model, chosen, tmp_path)


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "results.jsonl"
    lines = [json.dumps({"id": "a", "audio": None}), '{"id": "b", "aud']
    path.write_text("\n".join(lines))
    assert list(listed.read_results(path)) == ["a"]
    with path.open("a") as file:
        file.write("\n" + json.dumps({"id": "b", "audio": "b.wav"}) + "\n")
    assert list(listed.read_results(path)) == ["a", "b"]


def test_the_seed_of_an_item_is_of_its_id_alone():
    assert listed.seed_of("a") == listed.seed_of("a") != listed.seed_of("b")
    assert 0 <= listed.seed_of("anything") < 2**31 - 1
