"""The page of `crashchat serve`, in Gradio: a clip is dropped, its card is shown,
questions are answered beside it.
"""

import html
import os
import shutil
import traceback
from importlib.resources import files
from pathlib import Path

# Gradio reads this when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI, HTTPException, Request
from gradio.route_utils import MultiPartException, upload_fn
from gradio.routes import file_upload_statuses

from crashchat.analysis.cards import banner_html, card_html, clock
from crashchat.analysis.contexts import known_of
from crashchat.analysis.options import VIDEO_SUFFIXES
from crashchat.analysis.results import FAILED, ModelIdentity
from crashchat.answering.cascade import LINGUISTIC, PERCEPTION
from crashchat.answering.engines import BASE
from crashchat.checkpoints.model_card import warnings_of
from crashchat.serving.clip_service import ClipService
from crashchat.tasks import TASKS

TEMPLATES = files("crashchat") / "templates"
CSS = (
    ".gradio-container { max-width: 1100px !important; margin: 0 auto; } footer { display: none !important; }"
)
LONGEST_TEXT = 2000  # of a question, in characters
NAMES = {
    None: "model",
    BASE: "base model",
    LINGUISTIC: "linguistic adapter (what, why)",
    PERCEPTION: "perception adapter (when)",
}


class Page(gr.Blocks):
    """Takes from clients what the page's own code sends, nothing else: texts,
    and an upload that waits at the service.

    Gradio takes a file by its path wherever a component's data holds one, and fetches it where the path is an
    address.
    """

    def __init__(self, service: ClipService, **settings):
        super().__init__(**settings)
        self.service = service

    async def preprocess_data(self, block_fn, inputs, state, explicit_call=False):
        """Every event's data pass here, before Gradio does anything with them.

        Raises gr.Error for what no page sends.
        """
        checked = [self._checked(block, value) for block, value in zip(block_fn.inputs, inputs, strict=False)]
        return await super().preprocess_data(block_fn, checked, state, explicit_call=explicit_call)

    def _checked(self, block: gr.blocks.Block, value):
        if value is None or (isinstance(value, str) and len(value) <= LONGEST_TEXT):
            return value
        if (
            isinstance(block, gr.File)
            and isinstance(value, dict)
            and self.service.expects(path := value.get("path"))
        ):
            return {"path": path, "meta": {"_type": "gradio.FileData"}}
        raise gr.Error("this is nothing that the page takes", print_exception=False)


def _session(request: gr.Request) -> str:
    """Which page asks; Gradio leaves it out where a request is no page's."""
    return request.session_hash or ""


def build_page(service: ClipService, review: bool = False) -> Page:
    """The page on a service. review: with a link to an analysis that is reviewed beside it."""
    limits, cascade = service.limits, service.cascade
    columns = TASKS.task_set.context
    names = NAMES if len(set(cascade.adapters.values())) > 1 else NAMES | {LINGUISTIC: "adapter"}
    choices = [(names.get(adapter, adapter or ""), adapter or "") for adapter in cascade.adapter_choices()]

    def analyze(upload: dict | None, told: tuple, request: gr.Request, progress: gr.Progress):
        """Card, chat, its hint and its button for a dropped clip; without one everything is cleared."""
        if upload is None:
            service.drop(_session(request))
            return "", [], gr.update(interactive=False, placeholder=""), gr.update(interactive=False)
        known = known_of(dict(zip(columns, told, strict=True)))
        name = Path(upload["path"]).name
        path = service.claim(upload["path"])
        opened = None
        try:
            analysis = service.look_at(
                path, name, lambda share, step: progress(share, desc=step), known=known
            )
            if analysis.result.status != FAILED:
                opened = service.keep(_session(request), path, analysis)
        finally:
            if opened is None:
                service.drop(_session(request))
                path.unlink(missing_ok=True)
        card = card_html(analysis.result, analysis.strips, f"clips/{opened.token}" if opened else None)
        if opened is None:
            return card, [], gr.update(interactive=False, placeholder=""), gr.update(interactive=False)
        start, end = service.subject(opened)
        return (
            card,
            [],
            gr.update(
                interactive=True, placeholder=f"a question about {clock(start)} – {clock(end)} of this clip"
            ),
            gr.update(interactive=True),
        )

    def guarded(upload: dict | None, request: gr.Request, progress: gr.Progress = gr.Progress(), *told):  # noqa: B008
        try:
            return analyze(upload, told, request, progress)
        except Exception as error:
            # The page must show what went wrong, and the server go on.
            traceback.print_exc()
            off = gr.update(interactive=False)
            return f"<p><b>{html.escape(str(error))}</b></p>", [], off, off

    def ask(question: str | None, adapter: str | None, request: gr.Request):
        """The chat with one more question and its answer; each question is answered by itself."""
        opened = service.opened(_session(request))
        if opened is None:
            return "", [{"role": "assistant", "content": "This clip is no longer here; drop it once more."}]
        question = (question or "").strip()
        if question:
            try:
                answer = service.ask(opened, question, adapter or None) or "(no answer)"
            except Exception as error:
                traceback.print_exc()
                answer = f"This failed: {error}"
            opened.said.extend([("user", question), ("assistant", answer)])
        return "", [{"role": role, "content": content} for role, content in opened.said]

    def close(request: gr.Request) -> None:
        service.drop(_session(request))

    with Page(service, title="CrashChat", analytics_enabled=False, delete_cache=(600, 1800)) as page:
        gr.HTML(
            banner_html(warnings_of(cascade.cards.values()), ModelIdentity.model_validate(cascade.identity)),
            elem_id="model",
        )
        gr.Markdown(
            "# One clip in, a crash report out\n"
            f"Up to {limits.max_bytes / 2**20:.0f} MiB and {clock(limits.max_seconds, False)}. "
            "The clip stays on this machine and is deleted when the page is closed."
            + ("\n\n[Review an analysis](review/)" if review else "")
        )
        # What is told of the clip with the questions; before the clip, whose coming starts it all.
        with gr.Row(visible=bool(columns)):
            told = [
                gr.Textbox(
                    label=name, placeholder=context.words, max_length=LONGEST_TEXT, elem_id=f"context-{name}"
                )
                for name, context in columns.items()
            ]
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
                show_label=False,
                interactive=False,
                scale=4,
                elem_id="question",
                placeholder="drop a clip first",
                max_length=LONGEST_TEXT,
            )
            send = gr.Button("Ask", interactive=False, scale=0, min_width=80, elem_id="ask")
            adapter = gr.Dropdown(
                choices,
                value=choices[0][1],
                label="answered by",
                visible=len(choices) > 1,
                min_width=270,
                elem_id="adapter",
            )
        clip.change(
            guarded,
            [clip, *told],
            [card, chat, question, send],
            show_progress="full",
            show_progress_on=card,
            api_visibility="private",
            preprocess=False,  # it would leave an empty file for each upload
        )
        gr.on(
            [question.submit, send.click],
            ask,
            [question, adapter],
            [question, chat],
            api_visibility="private",
        )
        page.unload(close)
    page.state_session_capacity = 4 * limits.kept  # Gradio keeps each page's last card
    page.queue(max_size=limits.queue, default_concurrency_limit=2, api_open=False)
    return page


def mount(app: FastAPI, page: Page, service: ClipService) -> FastAPI:
    """The page at the app's root, with system fonts and this project's own script alone."""

    @app.post("/gradio_api/upload", include_in_schema=False)
    async def upload(request: Request, upload_id: str | None = None) -> list[str]:
        """In place of Gradio's, which names an upload by its content:
        two pages with the same clip would share one file.
        """
        folder, tracked = service.new_folder(), file_upload_statuses if upload_id else None
        try:
            paths, _, _ = await upload_fn(
                request, folder, service.limits.max_bytes, upload_id, upload_progress=tracked
            )
            if len(paths) != 1:
                raise HTTPException(400, f"{len(paths)} files, expected one clip")
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)  # not there yet where the form is none
            if isinstance(error, MultiPartException):
                raise HTTPException(
                    413 if "maximum allowed size" in error.message else 400, error.message
                ) from error
            raise
        service.expect(folder, Path(paths[0]))
        page.upload_file_set.update(paths)
        return paths

    # A mounted page counts as not launched, and then Gradio does not check the paths that clients send.
    page.has_launched = True
    script = (TEMPLATES / "card.js").read_text(encoding="utf-8")
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=service.limits.max_bytes,
        footer_links=[],
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
        theme=theme,
        css=CSS,
        head=f"<script>{script}</script>",
    )
