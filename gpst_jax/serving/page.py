"""The page: inputs by mode, one call of the model at a time, results; built with Gradio.

Gradio reads its environment when it is imported, which is why it is imported in functions: after
`prepare_environment`.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpst_jax.evaluation.report.players import escape
from gpst_jax.serving.answers import FIELDS, Answer, answers
from gpst_jax.serving.examples import Example
from gpst_jax.synthesis.synthesizer import Synthesizer

# Mode -> its name, and what it makes.
_MODES = {
    "speaker_transfer": (
        "Speaker identity transfer",
        "The content of the source in the voice of the prompt.",
    ),
    "semantic_to_acoustic": (
        "Semantic to acoustic",
        "The content of the source in a voice that the model samples.",
    ),
    "continuation": (
        "Acoustic continuation",
        "All units of the source and its first seconds of audio are given; the rest is made.",
    ),
    "speech_continuation": (
        "Speech continuation",
        "Speech after the source: units, then audio, at most so many seconds.",
    ),
    "unconditional": ("Unconditional", "Speech from nothing, at most so many seconds."),
    "tts": ("Text to speech", "The text in the voice of the prompt, or in one of the model's."),
    "voice_conversion": ("Voice conversion", "The content of the source in the prompt's voice."),
    "dialogue": ("Dialogue", "The answer to the spoken question, in the voice of the prompt."),
}
_INPUTS = ("source", "prompt", "text", "seconds")
_QUEUE = 32  # visitors that may wait
_KEPT_SECONDS = 3600  # files of visitors
_NONE = "None"

CSS = """
.gradio-container{width:100%;max-width:64rem!important;margin:0 auto!important}
.gradio-container main,.gradio-container .row{width:100%}
#title h1{font-size:1.6rem;font-weight:650;margin:0 0 .25rem}
#title p,#about p{opacity:.75}
#message{min-height:1.5rem}
#message [role=alert]{font-weight:600}
.speech-details figure{margin:0 0 1rem}
.speech-details figcaption{font-size:.85rem;opacity:.75;margin-bottom:.25rem}
.speech-details img{width:100%;height:6rem;border-radius:3px;
 background:var(--background-fill-secondary)}
.speech-details dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;
 font-size:.9rem;margin:0 0 1rem}
.speech-details dt{opacity:.75}
.speech-details dd{margin:0;overflow-wrap:anywhere}
.speech-details summary{cursor:pointer;font-size:.9rem}
.speech-details details p{font-family:ui-monospace,monospace;font-size:.8rem;
 overflow-wrap:anywhere;margin:.5rem 0}
input[role=listbox]{text-overflow:ellipsis}
@media (max-width:40rem){.gradio-container{padding:.5rem!important}}
"""


def prepare_environment(folder: Path) -> None:
    """Keeps Gradio's files in a folder, and Gradio from calling home; before its import."""
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_MCP_SERVER": "False",
        "GRADIO_SSR_MODE": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    # GRADIO_ALLOWED_PATHS and GRADIO_SHARE would open what the page must not.
    for name in ("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_ROOT_PATH"):
        os.environ.pop(name, None)


def build_page(
    synthesizer: Synthesizer, title: str, examples: Sequence[Example], note: str = ""
) -> Any:
    """The page of a model, a `gradio.Blocks`.

    Args:
        synthesizer: makes the speech.
        title: names the model.
        examples: recordings to choose from.
        note: a line for visitors, such as why there are no examples.
    """
    import gradio as gr

    paths = {example.name: example for example in examples}
    names = list(synthesizer.modes)
    first = "speaker_transfer" if "speaker_transfer" in names else names[0]

    def on_mode(mode: str) -> list[Any]:
        shown = _shown(synthesizer, mode)
        return [
            gr.update(value=_MODES[mode][1]),
            *(gr.update(visible=name in shown) for name in _INPUTS),
            *(gr.update(visible=name in shown and bool(examples)) for name in ("source", "prompt")),
        ]

    def on_example(name: str) -> str | None:
        return str(paths[name].path) if name in paths else None

    def speak(
        mode: str, source: str | None, prompt: str | None, text: str, seconds: float | None,
        seed: float, stream: bool,
    ) -> Iterator[tuple[Any, str, str]]:  # fmt: skip
        values = {
            "mode": mode, "source": source, "prompt": prompt, "text": text, "seconds": seconds,
            "seed": seed,
        }  # fmt: skip
        for answer in answers(synthesizer, values, stream=stream):
            yield answer.audio, _message(answer), answer.details

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, _KEPT_SECONDS)) as page:
        gr.Markdown(f"# {title}\n\n{note}", elem_id="title")
        with gr.Row():
            with gr.Column():
                shown = _shown(synthesizer, first)
                choices = [(_MODES[name][0], name) for name in names]
                mode = gr.Radio(choices, value=first, label=FIELDS["mode"])
                about = gr.Markdown(_MODES[first][1], elem_id="about")
                text = gr.Textbox(
                    label=FIELDS["text"], lines=2, max_length=1000, visible="text" in shown,
                    value=next((one.text for one in examples if one.text), ""),
                )  # fmt: skip
                recordings, pickers = {}, {}
                for place, name in enumerate(("source", "prompt")):
                    example = examples[place % len(examples)] if examples else None
                    pickers[name] = gr.Dropdown(
                        [_NONE, *paths],
                        value=example.name if example else _NONE,
                        label=f"{FIELDS[name]}: examples",
                        visible=name in shown and bool(examples),
                    )
                    recordings[name] = gr.Audio(
                        value=str(example.path) if example else None,
                        sources=["upload", "microphone"],
                        type="filepath",
                        label=FIELDS[name],
                        visible=name in shown,
                        buttons=[],
                    )
                seconds = gr.Number(
                    label=FIELDS["seconds"],
                    info="0: the default of the mode.",
                    value=0,
                    minimum=0,
                    visible="seconds" in shown,
                )
                with gr.Accordion("Settings", open=False):
                    seed = gr.Number(label=FIELDS["seed"], value=0, precision=0, minimum=0)
                    stream = gr.Checkbox(
                        label="As a stream",
                        info="Decodes audio as it is made, and tells when the first was there.",
                    )
                button = gr.Button("Make speech", variant="primary")
            with gr.Column():
                message = gr.HTML(_message(Answer()), elem_id="message", padding=False)
                audio = gr.Audio(
                    label="Result", interactive=False, format="wav", buttons=["download"]
                )
                details = gr.HTML(padding=False)
        inputs = {**recordings, "text": text, "seconds": seconds}
        mode.change(
            on_mode,
            mode,
            [about, *(inputs[name] for name in _INPUTS), pickers["source"], pickers["prompt"]],
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
        for name, picker in pickers.items():
            recording = recordings[name]
            picker.input(on_example, picker, recording, queue=False, api_visibility="private")
            gr.on(  # a visitor's own recording is no example
                [recording.upload, recording.start_recording, recording.clear],
                lambda: _NONE,
                outputs=picker,
                queue=False,
                api_visibility="private",
                show_progress="hidden",
            )
        button.click(
            speak,
            [mode, *(inputs[name] for name in _INPUTS), seed, stream],
            [audio, message, details],
            api_name="speak",
            concurrency_limit=1,
            show_progress="minimal",
        )
    page.queue(max_size=_QUEUE, default_concurrency_limit=1)
    return page


def launch(page: Any, host: str, port: int, largest_upload_mb: float) -> Any:
    """Starts serving in threads of its own; `page.close()` ends it. Returns the ASGI app.

    Args:
        page: what `build_page` made.
        host: address to listen on.
        port: port to listen on.
        largest_upload_mb: of one file, in MB.
    """
    import gradio as gr

    plain = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="slate", font=plain, font_mono=["ui-monospace", "Menlo", "monospace"]
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
    )
    app, _, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        allowed_paths=[],
        max_file_size=round(largest_upload_mb * 1_000_000),
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        footer_links=[],
        run_history=False,
        theme=theme,
        css=CSS,
    )
    return app


def _shown(synthesizer: Synthesizer, mode: str) -> tuple[str, ...]:
    """The inputs of a mode."""
    kind = synthesizer.modes[mode]
    return (*kind.needs, *kind.takes)


def _message(answer: Answer) -> str:
    """The line about an answer; screen readers say it when it changes."""
    role = "alert" if answer.failed else "status"
    return f'<p role="{role}">{escape(answer.message)}</p>'
