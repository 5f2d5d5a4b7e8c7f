"""The peers of decoding, in torch: CSM and MusicGen of Hugging Face transformers.

Each decodes greedily, a fixed number of frames, over static caches, in `torch.inference_mode`. The
loops are ours: `generate` of transformers does the same and more, as it prepares inputs, caches and
stopping criteria anew for every frame of CSM's depth decoder (see the case `csm_generate`). Weights
are random.
"""

import time
from typing import Any

import numpy as np

from data_pipeline.runtime.errors import UserError
from gpst_jax.benchmarks import csm, musicgen
from gpst_jax.benchmarks.traffic import Traffic
from gpst_jax.benchmarks.workload import Workload


class TorchDecoding:
    """Greedy decoding of one batch; a base of the peers.

    Args:
        workload: dimensions, prompts, frames and threads.
        compiled: whether the steps run under `torch.compile`; prefill never does, as in
            transformers, since its length differs from prompt to prompt.

    Attributes:
        model: in evaluation mode; bfloat16 on a GPU, else float32.
        first_s: seconds of the last call until the first frame was on the host.
        rest_s: seconds of the last call after its first frame.
        parameters: of the model.
    """

    def __init__(self, workload: Workload, *, compiled: bool):
        try:
            import torch
        except ImportError as error:
            raise UserError("the torch peer needs torch: pip install 'gpst_jax[codecs]'") from error
        self._torch, self.workload = torch, workload
        if workload.threads:
            torch.set_num_threads(workload.threads)
        torch.manual_seed(0)
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if cuda else "cpu")
        self.dtype = torch.bfloat16 if cuda else torch.float32
        if cuda:
            torch.set_float32_matmul_precision("high")
            torch.cuda.reset_peak_memory_stats()
        self.model = self.build().to(self.device, self.dtype).eval()
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.first_s = self.rest_s = 0.0
        self.prepare()
        if compiled:
            self.compile()

    def build(self) -> Any:
        """The model, randomly initialised."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Makes prompts and caches."""
        raise NotImplementedError

    def compile(self) -> None:
        """Compiles the steps."""
        raise NotImplementedError

    def decode(self, frames: int) -> np.ndarray:
        """Codes (B, Q, frames) of one call; sets `first_s`."""
        raise NotImplementedError

    def traffic(self) -> Traffic:
        """The bytes that a step reads."""
        raise NotImplementedError

    def __call__(self) -> float:
        """Decodes once and waits for the codes; returns 0, as nothing is trained."""
        start = time.perf_counter()
        self._decode(self.workload.frames)
        self.rest_s = time.perf_counter() - start - self.first_s
        return 0.0

    def warm(self) -> None:
        """Decodes a few frames, so that everything is compiled."""
        self._decode(min(3, self.workload.frames))

    def _decode(self, frames: int) -> None:
        with self._torch.inference_mode():
            codes = self.decode(frames)
        work = self.workload
        assert codes.shape == (work.rows, work.layout.num_codebooks, frames)

    def peak_bytes(self) -> int | None:
        """Peak GPU memory; None on a CPU."""
        cuda = self.device.type == "cuda"
        return self._torch.cuda.max_memory_allocated() if cuda else None

    def on_device(self, values: np.ndarray) -> Any:
        """The array as a tensor of the device."""
        return self._torch.from_numpy(values.astype(np.int64)).to(self.device)

    def compiled(self, function: Any) -> Any:
        """`function` under `torch.compile` with static shapes."""
        return self._torch.compile(function, dynamic=False)


class CsmDecoding(TorchDecoding):
    """CSM: units as text, then frames: a backbone step and Q - 1 steps of the depth decoder."""

    def build(self) -> Any:
        """The model of the train suite."""
        return csm.build_model(self.workload)

    def prepare(self) -> None:
        """Text (B, U + 2) between two start symbols, and the caches of both transformers."""
        from transformers import StaticCache

        self._text = self.on_device(csm.inputs(self.workload)["text"])
        config, length = self.model.config, self._text.shape[1] + self.workload.frames
        self._cache = StaticCache(config=config, max_cache_len=length)
        depth = self.workload.layout.num_codebooks
        self._depth_cache = StaticCache(config=config.depth_decoder_config, max_cache_len=depth)

    def compile(self) -> None:
        """Compiles a step of the backbone and those of the depth decoder."""
        for name in ("_advance", "_second_code", "_next_code"):
            setattr(self, name, self.compiled(getattr(self, name)))

    def _advance(self, frame: Any) -> Any:
        """From the newest frame (B, Q) to the hidden state (B, D) and the first code (B, 1)."""
        model = self.model
        embeds = model.backbone_model.embed_tokens(frame[:, None])
        return self._backbone(embeds)

    def _backbone(self, embeds: Any) -> Any:
        model = self.model
        out = model.backbone_model(
            inputs_embeds=embeds, past_key_values=self._cache, use_cache=True
        )
        hidden = out.last_hidden_state[:, -1]
        return hidden, model.lm_head(hidden).argmax(-1, keepdim=True)

    def _second_code(self, hidden: Any, code: Any) -> Any:
        """The depth decoder's first two positions: hidden state and first code."""
        both = self._torch.nn.functional.pad(code, (1, 0))
        return self._depth(both, backbone_last_hidden_state=hidden)

    def _next_code(self, code: Any) -> Any:
        return self._depth(code)

    def _depth(self, codes: Any, **inputs: Any) -> Any:
        out = self.model.depth_decoder(
            input_ids=codes,
            past_key_values=self._depth_cache,
            use_cache=True,
            logits_to_keep=1,
            **inputs,
        )
        return out.logits[:, -1].argmax(-1, keepdim=True)

    def decode(self, frames: int) -> np.ndarray:
        """Prefill, then frame by frame."""
        start, torch = time.perf_counter(), self._torch
        self._cache.reset()
        hidden, code = self._backbone(self.model.embed_text_tokens(self._text))
        made: list[Any] = []
        depth = self.workload.layout.num_codebooks
        while True:
            self._depth_cache.reset()
            codes = [code]
            if depth > 1:
                codes.append(self._second_code(hidden, code))
            while len(codes) < depth:
                codes.append(self._next_code(codes[-1]))
            made.append(torch.cat(codes, dim=1))
            if len(made) == 1:
                made[0].cpu()
                self.first_s = time.perf_counter() - start
            if len(made) == frames:
                return torch.stack(made, dim=2).cpu().numpy()
            hidden, code = self._advance(made[-1])

    def traffic(self) -> Traffic:
        """Layers of the backbone once and those of the depth decoder Q times per frame."""
        model, depth = self.model, self.workload.layout.num_codebooks
        decoder = model.depth_decoder
        narrow = count(decoder.model.layers) + count(decoder.model.inputs_embeds_projector)
        heads = count(model.lm_head) + count(decoder.codebooks_head)
        wide, _ = csm.dimensions(self.workload)
        return Traffic(
            weights=count(model.backbone_model.layers) + depth * narrow + heads,
            cache_per_position=2 * wide.layers * wide.hidden,
            itemsize=self.dtype.itemsize,
        )


class CsmGenerate(CsmDecoding):
    """CSM with `generate` of transformers, as its documentation shows it."""

    def prepare(self) -> None:
        """The prompts."""
        self._text = self.on_device(csm.inputs(self.workload)["text"])
        # Off in the train suite's model, from whose config both took it.
        self.model.generation_config.use_cache = True
        self.model.depth_decoder.generation_config.use_cache = True

    def decode(self, frames: int) -> np.ndarray:
        """All frames in one call."""
        codes = self.model.generate(
            self._text, max_new_tokens=frames, do_sample=False, depth_decoder_do_sample=False
        )
        return codes.transpose(1, 2).cpu().numpy()

    def first(self) -> None:
        """A call for one frame, apart from the calls that are timed."""
        start = time.perf_counter()
        self._decode(1)
        self.first_s = time.perf_counter() - start


class MusicgenDecoding(TorchDecoding):
    """MusicGen's decoder: one step per position, all codebooks at once, each delayed by one more.

    T frames take T + Q - 1 steps; the first frame is complete after Q of them.
    """

    def build(self) -> Any:
        """A decoder with as many weights in its layers as ours."""
        return musicgen.build_model(self.workload)

    def prepare(self) -> None:
        """Conditioning (B, U + 2, D) in the place of T5's states, and both caches."""
        from transformers import EncoderDecoderCache, StaticCache

        torch, work, config = self._torch, self.workload, self.model.config
        width = config.hidden_size
        shape = (work.rows, work.units + 2, width)
        self._states = torch.randn(shape, device=self.device, dtype=self.dtype)
        self._next_codes: Any = self._step
        self._cache = EncoderDecoderCache(
            StaticCache(config=config, max_cache_len=work.frames + work.layout.num_codebooks - 1),
            StaticCache(config=config, max_cache_len=work.units + 2),
        )

    def compile(self) -> None:
        """Compiles a step after the first, which also fills the cache of the conditioning."""
        self._next_codes = self.compiled(self._step)

    def _step(self, codes: Any) -> Any:
        """Codes (B * Q, 1) of the next position."""
        out = self.model(
            input_ids=codes,
            encoder_hidden_states=self._states,
            past_key_values=self._cache,
            use_cache=True,
        )
        return out.logits.argmax(-1)

    def decode(self, frames: int) -> np.ndarray:
        """T + Q - 1 steps for T frames; before its delay a codebook's code is the start symbol."""
        start, torch, work = time.perf_counter(), self._torch, self.workload
        self._cache.reset()
        depth = work.layout.num_codebooks
        begin = work.layout.acoustic_classes
        blank = torch.full((work.rows * depth, 1), begin, device=self.device)
        delays = torch.arange(depth, device=self.device).repeat(work.rows)[:, None]
        codes, steps = blank, []
        for step in range(frames + depth - 1):
            codes = (self._next_codes if step else self._step)(codes)
            codes = torch.where(delays <= step, codes, blank)
            steps.append(codes)
            if step == depth - 1:
                codes.cpu()
                self.first_s = time.perf_counter() - start
        grid = torch.cat(steps, dim=1).reshape(work.rows, depth, len(steps))
        rows = [grid[:, k, k : k + frames] for k in range(depth)]
        return torch.stack(rows, dim=1).cpu().numpy()

    def traffic(self) -> Traffic:
        """All layers and heads once; of the conditioning only what is cached."""
        layers, config = self.model.model.decoder.layers, self.model.config
        unread = sum(
            count(layer.encoder_attn.k_proj) + count(layer.encoder_attn.v_proj) for layer in layers
        )
        return Traffic(
            weights=count(layers) + count(self.model.lm_heads) - unread,
            cache_per_position=2 * config.num_hidden_layers * config.hidden_size,
            itemsize=self.dtype.itemsize,
        )


def count(module: Any) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
