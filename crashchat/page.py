"""The page of `crashchat serve`, in Gradio: a clip is dropped, its card is shown, questions are answered beside it."""

import html
import os
import shutil
import traceback
from importlib.resources import files
from pathlib import Path

# Gradio reads this when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr  # noqa: E402
from fastapi import FastAPI  # noqa: E402

from crashchat.analyze import VIDEO_SUFFIXES  # noqa: E402
from crashchat.cards import card_html, clock  # noqa: E402
from crashchat.cascade import BASE  # noqa: E402
from crashchat.windows import FAILED  # noqa: E402

TEMPLATES = files("crashchat") / "templates"
CSS = ".gradio-container { max-width: 1100px !important; margin: 0 auto; } footer { display: none !important; }"
NAMES = {None: "model", BASE: "base model"}


def build_page(desk) -> gr.Blocks:
    """The page on a serve.Desk."""
    limits, voices = desk.limits, desk.cascade.voices()
    choices = [(NAMES.get(voice, voice), voice or "") for voice in voices]

    def analyze(upload: str | None, request: gr.Request, progress: gr.Progress = gr.Progress()):  # noqa: B008
        """Card, chat and its hint for a dropped clip; without one everything is cleared."""
        if upload is None:
            desk.drop(request.session_hash)
            return "", [], gr.update(interactive=False, placeholder="")
        name = Path(upload).name
        path = desk.place(name)
        shutil.move(upload, path)
        opened = None
        try:
            analysis = desk.look_at(path, name, lambda share, step: progress(share, desc=step))
            if analysis.result["status"] != FAILED:
                opened = desk.keep(request.session_hash, path, analysis)
        finally:
            if opened is None:
                desk.drop(request.session_hash)
                path.unlink(missing_ok=True)
        card = card_html(analysis.result, analysis.strips, opened and f"clips/{opened.token}")
        if opened is None:
            return card, [], gr.update(interactive=False, placeholder="")
        start, end = desk.subject(opened)
        return card, [], gr.update(interactive=True, placeholder=f"a question about {clock(start)} – {clock(end)} of this clip")

    def guarded(upload: str | None, request: gr.Request, progress: gr.Progress = gr.Progress()):  # noqa: B008
        try:
            return analyze(upload, request, progress)
        except Exception as error:
            # The page must show what went wrong, and the server go on.
            traceback.print_exc()
            return f"<p><b>{html.escape(str(error))}</b></p>", [], gr.update(interactive=False)

    def ask(question: str, messages: list, voice: str, request: gr.Request):
        """The chat with one more question and its answer; each question is answered by itself."""
        if not question.strip():
            return "", messages
        opened = desk.opened(request.session_hash)
        if opened is None:
            answer = "This clip is no longer here; drop it once more."
        else:
            try:
                answer = desk.ask(opened, question.strip(), voice or None) or "(no answer)"
            except Exception as error:
                traceback.print_exc()
                answer = f"This failed: {error}"
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return "", [*messages, *said]

    def close(request: gr.Request) -> None:
        desk.drop(request.session_hash)

    with gr.Blocks(title="CrashChat", analytics_enabled=False, delete_cache=(600, 1800)) as page:
        gr.Markdown(
            "# One clip in, a crash report out\n"
            f"Up to {limits.max_bytes / 2**20:.0f} MiB and {clock(limits.max_seconds, False)}. "
            "The clip stays on this machine and is deleted when the page is closed."
        )
        clip = gr.File(label="clip", file_types=sorted(VIDEO_SUFFIXES), height=130, elem_id="clip")
        card = gr.HTML(elem_id="card")
        chat = gr.Chatbot(
            label="questions",
            height=300,
            render_markdown=False,  # what a model says is text
            feedback_options=None,
            buttons=[],
            elem_id="chat",
            allow_tags=False,
        )
        with gr.Row():
            question = gr.Textbox(
                show_label=False, interactive=False, scale=4, elem_id="question", placeholder="drop a clip first", max_length=2000
            )
            voice = gr.Dropdown(choices, value=choices[0][1], label="answered by", visible=len(choices) > 1, elem_id="voice")
        clip.change(guarded, clip, [card, chat, question], show_progress="full", show_progress_on=card, api_visibility="private")
        question.submit(ask, [question, chat, voice], [question, chat], api_visibility="private")
        page.unload(close)
    page.queue(max_size=limits.queue, default_concurrency_limit=2, api_open=False)
    return page


def mount(app: FastAPI, page: gr.Blocks, desk) -> FastAPI:
    """The page at the app's root, with system fonts and this project's own script alone."""
    script = (TEMPLATES / "card.js").read_text(encoding="utf-8")
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=desk.limits.max_bytes,
        footer_links=[],
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
        theme=theme,
        css=CSS,
        head=f"<script>{script}</script>",
    )
