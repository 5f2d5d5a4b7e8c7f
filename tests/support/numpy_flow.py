"""Flow matching and SoundStorm in plain NumPy float64, under the official names of weights.

An independent reference, written item by item and frame by frame where that is plainest. `flow` and
`soundstorm` give all entries of a golden file, which `gpst_jax.parity` reads.
"""

import math
from collections.abc import Mapping

import numpy as np

Array = np.ndarray
Weights = Mapping[str, Array]
KERNEL = 31


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def layer_norm(w: Weights, name: str, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w: Weights, name: str, x: Array) -> Array:
    weight = w[f"{name}.weight"]
    return x @ weight.reshape(weight.shape[:2]).T + w.get(f"{name}.bias", 0.0)


def feed_forward(w: Weights, name: str, x: Array) -> Array:
    y = linear(w, f"{name}.fn.fn.net.0", layer_norm(w, f"{name}.fn.norm", x))
    return linear(w, f"{name}.fn.fn.net.3", y * sigmoid(y))


def rotate(x: Array) -> Array:
    """Rotary positions on one head (T, dh), the halves of a head being the two coordinates."""
    half = x.shape[1] // 2
    out = np.empty_like(x)
    for n in range(len(x)):
        for i in range(half):
            angle = n * 10000.0 ** (-2 * i / x.shape[1])
            a, b = x[n, i], x[n, half + i]
            out[n, i] = a * math.cos(angle) - b * math.sin(angle)
            out[n, half + i] = b * math.cos(angle) + a * math.sin(angle)
    return out


def attention(w: Weights, name: str, heads: int, x: Array, valid: Array) -> Array:
    width = x.shape[1] // heads
    query = linear(w, f"{name}.fn.to_q", x)
    key, value = np.split(linear(w, f"{name}.fn.to_kv", x), 2, axis=1)
    mixed = np.zeros_like(x)
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        scores = rotate(query[:, own]) @ rotate(key[:, own]).T / math.sqrt(width)
        scores[:, ~valid] = -np.inf
        scores = np.exp(scores - scores.max(1, keepdims=True))
        mixed[:, own] = scores / scores.sum(1, keepdims=True) @ value[:, own]
    return linear(w, f"{name}.fn.to_out", mixed)


def conv_module(w: Weights, name: str, x: Array, valid: Array) -> Array:
    y, gate = np.split(linear(w, f"{name}.net1.2", layer_norm(w, f"{name}.net1.0", x)), 2, axis=1)
    y = y * sigmoid(gate) * valid[:, None]
    taps, bias = w[f"{name}.ds_conv.conv.weight"][:, 0], w[f"{name}.ds_conv.conv.bias"]
    out = np.tile(bias, (len(y), 1))
    for n in range(len(y)):
        for j in range(KERNEL):
            if 0 <= n + j - KERNEL // 2 < len(y):
                out[n] += taps[:, j] * y[n + j - KERNEL // 2]
    out = out * valid[:, None]
    out = out * sigmoid(out)
    centred = out - out.mean(1, keepdims=True)
    out = centred / np.sqrt(np.maximum((centred**2).mean(1, keepdims=True), 1e-6))
    return linear(w, f"{name}.net2.2", out * w[f"{name}.net2.1.gamma"][0, :, 0])


def block(w: Weights, name: str, heads: int, x: Array, valid: Array) -> Array:
    x = x + 0.5 * feed_forward(w, f"{name}.ff1", x)
    normed = layer_norm(w, f"{name}.attn.norm", x)
    x = x + attention(w, f"{name}.attn", heads, normed, valid)
    x = x + conv_module(w, f"{name}.conv", x, valid)
    x = x + 0.5 * feed_forward(w, f"{name}.ff2", x)
    return layer_norm(w, f"{name}.post_norm", x)


def u_conformer(w: Weights, depth: int, heads: int, x: Array, valid: Array) -> Array:
    side = depth // 2 - (1 - depth % 2)
    kept = []
    for i in range(side):
        x = block(w, f"net.contracting_layers.{i}", heads, x, valid)
        kept.append(x)
    for i in range(depth - 2 * side):
        x = block(w, f"net.bottleneck_layers.{i}", heads, x, valid)
    for i in range(side):
        x = linear(w, f"net.projs.{i}", np.concatenate([x, kept.pop()], axis=1))
        x = block(w, f"net.expanding_layers.{i}", heads, x, valid)
    return x


class Draw:
    """Random weights by name, no gain 1 and no bias 0, so that a forgotten one shows."""

    def __init__(self, seed: int):
        self.rng, self.weights = np.random.default_rng(seed), {}

    def matrix(self, name: str, *shape: int, fan_in: int) -> None:
        self.weights[name] = self.rng.normal(size=shape) * fan_in**-0.5

    def linear(self, name: str, fan_in: int, fan_out: int, *extra: int, bias: bool = True) -> None:
        self.matrix(f"{name}.weight", fan_out, fan_in, *extra, fan_in=fan_in)
        if bias:
            self.weights[f"{name}.bias"] = 0.1 * self.rng.normal(size=fan_out)

    def norm(self, name: str, width: int) -> None:
        self.weights[f"{name}.weight"] = 1 + 0.2 * self.rng.normal(size=width)
        self.weights[f"{name}.bias"] = 0.1 * self.rng.normal(size=width)

    def block(self, name: str, d: int) -> None:
        for part in ("ff1", "ff2"):
            self.norm(f"{name}.{part}.fn.norm", d)
            self.linear(f"{name}.{part}.fn.fn.net.0", d, 4 * d)
            self.linear(f"{name}.{part}.fn.fn.net.3", 4 * d, d)
        self.norm(f"{name}.attn.norm", d)
        self.linear(f"{name}.attn.fn.to_q", d, d, bias=False)
        self.linear(f"{name}.attn.fn.to_kv", d, 2 * d, bias=False)
        self.linear(f"{name}.attn.fn.to_out", d, d)
        self.norm(f"{name}.conv.net1.0", d)
        self.linear(f"{name}.conv.net1.2", d, 4 * d, 1)
        self.matrix(f"{name}.conv.ds_conv.conv.weight", 2 * d, 1, KERNEL, fan_in=KERNEL)
        self.weights[f"{name}.conv.ds_conv.conv.bias"] = 0.1 * self.rng.normal(size=2 * d)
        self.weights[f"{name}.conv.net2.1.gamma"] = 1 + 0.2 * self.rng.normal(size=(1, 2 * d, 1))
        self.linear(f"{name}.conv.net2.2", 2 * d, d, 1)
        self.norm(f"{name}.post_norm", d)


def stored(config: Mapping, weights: Weights, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The entries of a golden file: floats as float32, integers as int64."""
    entries = {f"config/{name}": np.array(value) for name, value in config.items()}
    entries |= {f"weights/{name}": value for name, value in weights.items()}
    entries |= {name: np.asarray(value) for name, value in arrays.items()}
    casts = {"f": np.float32, "i": np.int64, "b": bool}
    return {name: value.astype(casts[value.dtype.kind]) for name, value in entries.items()}


def flow(chain: str, depth: int, seed: int = 0) -> dict[str, Array]:
    """A golden file of flow matching with rows of several lengths, all of it random."""
    d, heads, lengths, target_lengths, k, steps = 16, 2, (13, 9, 11), (7, 4, 6), 4, 4
    frames, prompt_frames, rows = max(lengths), 5, len(lengths)
    told = chain != "implicit"
    draw = Draw(seed)
    side = depth // 2 - (1 - depth % 2)
    for part, count in (
        ("contracting", side),
        ("bottleneck", depth - 2 * side),
        ("expanding", side),
    ):
        for i in range(count):
            draw.block(f"net.{part}_layers.{i}", d)
    for i in range(side):
        draw.linear(f"net.projs.{i}", 2 * d, d)
    draw.linear("to_embed", (3 if told else 2) * d + 1, d)
    draw.linear("to_pred", d, d, bias=False)
    # What is stored is float32: the reference starts from the very same numbers.
    w = {name: value.astype(np.float32).astype(np.float64) for name, value in draw.weights.items()}

    def normal(*shape: int) -> Array:
        return draw.rng.normal(size=shape).astype(np.float32).astype(np.float64)

    def network(x, e, context, t, valid):
        time = np.full((len(x), 1), t)
        inputs = np.concatenate([x, *([e] if told else []), context, time], axis=1)
        embedded = linear(w, "to_embed", inputs)
        hidden = u_conformer(w, depth, heads, embedded, valid)
        return inputs, embedded, hidden, linear(w, "to_pred", hidden)

    x1, e, eps = normal(rows, frames, d), normal(rows, frames, d), normal(rows, frames, d)
    t = draw.rng.uniform(size=rows).astype(np.float32).astype(np.float64)
    valid = np.arange(frames)[None] < np.array(lengths)[:, None]
    predicted = valid & (np.arange(frames)[None] >= k)
    context = np.where(predicted[..., None], 0.0, x1)
    start = e + eps if chain == "implicit" else eps
    end = x1 - e if chain == "explicit" else x1

    def training(sigma: float) -> dict[str, Array]:
        at = t[:, None, None]
        x_t = (1 - (1 - sigma) * at) * start + at * end
        target = end - (1 - sigma) * start
        rows = [network(*row) for row in zip(x_t, e, context, t, valid, strict=True)]
        names = ("net_input", "embedded", "backbone_out", "prediction")
        found = {name: np.stack([row[i] for row in rows]) for i, name in enumerate(names)}
        error = (found["prediction"] - target)[predicted] ** 2
        selected = {"target_selected": target[predicted], "loss": error.mean()}
        return found | {"x_t": x_t, "target": target} | selected

    arrays = {"inputs/x1": x1, "inputs/e": e, "inputs/eps": eps, "inputs/t": t}
    arrays |= {"inputs/prompt_len": k, "inputs/valid_mask": valid, "inputs/predict_mask": predicted}
    arrays |= {f"outputs/{name}": value for name, value in training(0.0).items()}
    arrays["outputs/context"] = context
    wide = training(0.1)
    for name in ("x_t", "prediction", "target_selected", "loss"):
        arrays[f"sigma01/{name}"] = wide[name]

    n = max(target_lengths)
    e_target, e_prompt, x_prompt = (normal(rows, m, d) for m in (n, prompt_frames, prompt_frames))
    noise = normal(rows, prompt_frames + n, d)
    mask = np.arange(n)[None] < np.array(target_lengths)[:, None]

    def solve(e, context, noise, valid):
        y = y0 = e + noise if chain == "implicit" else noise
        calls = []

        def field(y, t):
            rows = [network(*row[:3], t, row[3]) for row in zip(y, e, context, valid, strict=True)]
            calls.append((t, np.stack([row[0] for row in rows]), np.stack([r[3] for r in rows])))
            return calls[-1][2]

        for step in range(steps):
            half = 0.5 / steps
            y = y + field(y + half * field(y, step / steps), step / steps + half) / steps
        return y0, calls, y

    full_context = np.concatenate([x_prompt, np.zeros_like(e_target)], axis=1)
    full_valid = np.concatenate([np.ones((rows, prompt_frames), bool), mask], axis=1)
    e_full = np.concatenate([e_prompt, e_target], axis=1)
    y0, calls, y = solve(e_full, full_context, noise, full_valid)
    alone0, _, alone = solve(e_target, np.zeros_like(e_target), noise[:, :n], mask)
    arrays |= {
        "gen/semantic_emb": e_target,
        "gen/prompt_semantic_emb": e_prompt,
        "gen/prompt_x1": x_prompt,
        "gen/eps": noise,
        "gen/target_mask": mask,
        "gen/y0": y0,
        "gen/first_net_input": calls[0][1],
        "gen/eval_times": np.array([call[0] for call in calls]),
        "gen/velocity_0": calls[0][2],
        "gen/velocity_1": calls[1][2],
        "gen/y_full": y,
        "gen/output": y[:, -n:],
        "gen/n_evaluations": len(calls),
        "gen_noprompt/y0": alone0,
        "gen_noprompt/output": alone,
    }
    config = {"dim": d, "depth": depth, "heads": heads, "sigma": 0.0, "ode_step_size": 1 / steps}
    config |= {"start_from_cond": int(not told), "explicit": int(chain == "explicit")}
    return stored(config, w, arrays)


def soundstorm(seed: int = 0) -> dict[str, Array]:
    """A golden file of SoundStorm with rows of two lengths, all of it random."""
    d, heads, depth, levels, codes, units = 16, 2, 2, 3, 7, 9
    lengths, prompts, prompt_frames = (11, 8), (3, 0, 2), 4
    frames, rows = max(lengths), len(lengths)
    draw = Draw(seed)
    for i in range(depth):
        draw.block(f"net.net.layers.{i}", d)
    draw.matrix("net.code_embeds.weight", levels * (codes + 1), d, fan_in=1)
    draw.matrix("semantic_token_emb.weight", units, d, fan_in=1)
    draw.linear("net.heads.0", d, levels * d)
    draw.norm("net.to_logits.0", d)
    draw.matrix("net.to_logits.2.weight", levels, d, codes, fan_in=d)
    draw.matrix("net.to_logits.2.bias", 1, 1, levels, codes, fan_in=100)
    w = {name: value.astype(np.float32).astype(np.float64) for name, value in draw.weights.items()}

    def network(ids, semantic, valid):
        x = np.zeros((len(ids), d))
        for n in range(len(ids)):
            for q in range(levels):
                x[n] += w["net.code_embeds.weight"][ids[n, q] + q * (codes + 1)]
            if semantic[n] >= 0:
                x[n] += w["semantic_token_emb.weight"][semantic[n]]
        for i in range(depth):
            x = block(w, f"net.net.layers.{i}", heads, x, valid)
        heads_out = linear(w, "net.heads.0", x)
        out = []
        for q in range(levels):
            z = layer_norm(w, "net.to_logits.0", heads_out[:, q * d : (q + 1) * d])
            bias = w["net.to_logits.2.bias"][0, 0, q]
            out.append(z @ w["net.to_logits.2.weight"][q] + bias)
        return np.stack(out, axis=1)

    valid = np.arange(frames)[None] < np.array(lengths)[:, None]
    clean = np.where(valid[..., None], draw.rng.integers(codes, size=(rows, frames, levels)), codes)
    semantic = np.where(valid, draw.rng.integers(units, size=(rows, frames)), -1)
    arrays = {"inputs/codes": clean, "inputs/semantic_ids": semantic, "inputs/valid_mask": valid}
    for level, k in enumerate(prompts):
        behind = np.broadcast_to(np.arange(frames)[None] >= k, valid.shape)
        selected = valid & behind & (draw.rng.uniform(size=valid.shape) < 0.6)
        ids = clean.copy()
        ids[..., level][selected] = codes
        for q in range(level + 1, levels):
            ids[..., q][behind] = codes
        logits = np.stack([network(*row) for row in zip(ids, semantic, valid, strict=True)])
        picked = logits[:, :, level][selected]
        log_probs = picked - np.log(np.exp(picked).sum(-1, keepdims=True))
        right = log_probs[np.arange(len(picked)), clean[..., level][selected]]
        found = {"prompt_len": k, "selected": selected, "net_input_ids": ids, "logits": logits}
        found["loss"] = -right.mean()
        arrays |= {f"level{level}/{name}": value for name, value in found.items()}
    target = draw.rng.integers(units, size=(rows, frames))
    sizes = [units, *[codes] * levels]
    prompt = np.stack([draw.rng.integers(n, size=(rows, prompt_frames)) for n in sizes], axis=-1)
    everything = np.ones(prompt_frames + frames, bool)
    outputs = []
    for row in range(rows):
        ids = np.concatenate([prompt[row, :, 1:], np.full((frames, levels), codes)])
        logits = network(ids, np.concatenate([prompt[row, :, 0], target[row]]), everything)
        best = logits.argmax(-1)[prompt_frames:]
        outputs.append(np.concatenate([target[row][:, None], best], axis=1))
    arrays |= {"once/semantic_ids": target, "once/prompt_tokens": prompt}
    arrays["once/output"] = np.stack(outputs)
    config = {"dim": d, "depth": depth, "heads": heads, "num_quantizers": levels}
    config |= {"codebook_size": codes, "num_semantic_ids": units}
    return stored(config, w, arrays)
