"""Blind listening: pairs of renditions whose names are hidden until a vote is given.

The page needs a script, its own: it shuffles the sides of each pair at every visit, keeps the votes
in the browser, and saves them as JSON, which `experiments.compare --votes` reads.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipeline.audio.io import AudioError, load_audio
from gpst_jax.evaluation.report import tables
from gpst_jax.evaluation.report.players import MAX_SECONDS, SAMPLE_RATE, audio_uri, escape
from gpst_jax.evaluation.votes import Trial
from gpst_jax.samples.manifest import Sample

STYLE = """
.bar{position:sticky;top:0;z-index:1;display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center;
 background:var(--page);padding:.6rem 0;border-bottom:1px solid var(--line)}
.bar input[type=text]{font:inherit;color:inherit;background:var(--tint);
 border:1px solid var(--line);border-radius:3px;padding:.2rem .5rem;width:10rem}
button{font:inherit;font-size:.9rem;color:inherit;background:var(--tint);cursor:pointer;
 border:1px solid var(--line);border-radius:3px;padding:.3rem .8rem}
button:hover:not(:disabled){border-color:var(--ink)}
button:disabled{cursor:default;color:var(--soft)}
button.chosen{border-color:var(--ink);color:var(--ink);font-weight:600}
.vote{display:flex;flex-wrap:wrap;gap:.5rem;margin-top:.6rem}
.trial figure small{color:var(--soft);font-size:.8rem;min-height:1.1rem}
.progress{color:var(--soft);font-size:.9rem}
"""

# Sides are shuffled in the browser: the page itself does not tell which side will be which.
SCRIPT = """
document.querySelectorAll('.comparison').forEach(function (box) {
  const about = JSON.parse(box.querySelector('script[type="application/json"]').textContent);
  const store = 'gpst-votes-' + about.key;
  const trials = [...box.querySelectorAll('.trial')];
  const blind = box.querySelector('.blind'), listener = box.querySelector('.listener');
  const progress = box.querySelector('.progress');
  let votes = {};
  try { votes = JSON.parse(localStorage.getItem(store)) || {}; } catch (error) { votes = {}; }
  function coin() { return crypto.getRandomValues(new Uint8Array(1))[0] & 1; }
  function show(trial) {
    const number = trial.dataset.trial, vote = votes[number];
    const open = Boolean(vote) || !blind.checked;
    [...trial.querySelectorAll('.side')].forEach(function (side, place) {
      const name = about.systems[Number(side.dataset.system)];
      side.querySelector('b').textContent = open ? name : String(place + 1);
      side.querySelector('small').textContent = open ? side.dataset.note : '';
    });
    const sides = trial.querySelectorAll('.side');
    trial.querySelectorAll('.vote button').forEach(function (button) {
      const place = button.dataset.place;
      const choice = place === '' ? '' : about.systems[Number(sides[place].dataset.system)];
      button.disabled = Boolean(vote);
      button.classList.toggle('chosen', Boolean(vote) && vote.choice === choice);
    });
    progress.textContent = Object.keys(votes).length + ' of ' + trials.length + ' voted on';
  }
  trials.forEach(function (trial) {
    const row = trial.querySelector('.sides'), sides = row.querySelectorAll('.side');
    if (coin()) row.insertBefore(sides[1], sides[0]);
    trial.querySelectorAll('.vote button').forEach(function (button) {
      button.addEventListener('click', function () {
        const number = trial.dataset.trial, place = button.dataset.place;
        const order = [...trial.querySelectorAll('.side')].map(function (side) {
          return about.systems[Number(side.dataset.system)];
        });
        const named = about.trials[Number(number)];
        votes[number] = {condition: named[0], id: named[1], first: order[0],
          choice: place === '' ? '' : order[Number(place)], blind: blind.checked};
        try { localStorage.setItem(store, JSON.stringify(votes)); } catch (error) { /* private */ }
        show(trial);
      });
    });
    show(trial);
  });
  blind.addEventListener('change', function () { trials.forEach(show); });
  box.querySelector('.save').addEventListener('click', function () {
    const saved = {key: about.key, systems: about.systems, listener: listener.value.trim(),
      votes: Object.keys(votes).map(Number).sort(function (a, b) { return a - b; })
        .map(function (number) { return votes[number]; })};
    const link = document.createElement('a');
    const text = JSON.stringify(saved, null, 2) + '\\n';
    link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
    link.download = 'votes-' + about.key + '.json';
    link.click();
    URL.revokeObjectURL(link.href);
  });
});
"""


def blind_section(
    systems: tuple[str, str],
    trials: Sequence[Trial],
    samples: tuple[Mapping[tuple[str, str], Sample], Mapping[tuple[str, str], Sample]],
    notes: tuple[Mapping[tuple[str, str], str], Mapping[tuple[str, str], str]],
    key: str,
) -> str:
    """HTML of the trials of two systems.

    Args:
        systems: names of both.
        trials: what is listened to.
        samples: of each system, by condition and id.
        notes: what is said of each side once it is open, likewise.
        key: of the comparison, see `votes.comparison_key`.
    """
    about = {"key": key, "systems": systems, "trials": [[t.condition, t.id] for t in trials]}
    stored = json.dumps(about, ensure_ascii=True).replace("<", "\\u003c")
    body = ""
    for number, trial in enumerate(trials):
        place = trial.condition, trial.id
        sides = "".join(
            _side(side, samples[side][place].audio, notes[side].get(place, "")) for side in (0, 1)
        )
        first = samples[0][place]
        title = f"“{escape(first.text)}”" if first.text else escape(trial.id)
        told = escape(tables.condition_name(trial.condition))
        body += (
            f'<section class="item trial" data-trial="{number}">'
            f"<h3>{title} <span>{told}</span></h3>"
            f'<div class="sides players">{sides}</div>{_reference(first)}'
            '<div class="vote"><button type="button" data-place="0">1 is better</button>'
            '<button type="button" data-place="">no preference</button>'
            '<button type="button" data-place="1">2 is better</button></div></section>'
        )
    bar = (
        '<div class="bar"><label><input type="checkbox" class="blind" checked> hide the names '
        'until a vote is given</label><label>listener <input type="text" class="listener"></label>'
        '<button type="button" class="save">save the votes</button>'
        '<span class="progress"></span></div>'
    )
    return (
        f'<div class="comparison"><script type="application/json">{stored}</script>{bar}'
        "<noscript><p>Voting needs JavaScript, which is in this page; it loads nothing.</p>"
        f"</noscript>{body}</div>"
    )


def _side(number: int, path: Path, note: str) -> str:
    """One side; a file that is missing or silent is said to be so, and can lose like any other."""
    return (
        f'<figure class="side" data-system="{number}" data-note="{escape(note)}">'
        f"<figcaption><b></b></figcaption>{_player(path)}<small></small></figure>"
    )


def _reference(sample: Sample) -> str:
    path = sample.prompt_audio or sample.source_audio
    if path is None:
        return ""
    what = "prompt" if sample.prompt_audio else "recording"
    return f"<figure><figcaption><b>{what}</b></figcaption>{_player(path)}<small></small></figure>"


def _player(path: Path) -> str:
    try:
        wav = load_audio(path, SAMPLE_RATE)[: round(MAX_SECONDS * SAMPLE_RATE)]
    except AudioError as error:
        return f'<p class="none">{escape(error.reason)}</p>'
    return f'<audio controls preload="metadata" src="{audio_uri(wav, SAMPLE_RATE)}"></audio>'
