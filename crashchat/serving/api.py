"""The endpoint for programs, and its description: what each path takes, and how it answers.

    /api/analyze   a clip in, its result out       /v1/chat/completions   a question on a video, as OpenAI's
    /api/jobs      the same, without waiting       /v1/files, /v1/models  clients ask it
    /api/health, /metrics, /api/openapi.json

The gate in front (guard.py) refuses in words; what is refused here is JSON.
"""

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Form, HTTPException, UploadFile
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST

from crashchat.analysis.clip import MEBIBYTE
from crashchat.analysis.contexts import Known, known_of
from crashchat.analysis.results import FAILED, ClipResult
from crashchat.checkpoints.model_card import warnings_of
from crashchat.json_files import Exact, parse_json
from crashchat.serving.chat import (
    ChatCompletion,
    ChatError,
    ChatRequest,
    Choice,
    Deleted,
    Error,
    FileId,
    Model,
    ModelList,
    Reply,
    Uploaded,
    Usage,
    chunks,
    question_of,
)
from crashchat.serving.clip_service import Busy, ClipService, Gone
from crashchat.serving.jobs import JobState
from crashchat.serving.programs import Programs
from crashchat.serving.refusals import BUSY, add_refusals
from crashchat.video.source import VideoError

# What is known of the clip, for a task set that tells it: {"speed": 42} as JSON.
ToldContext = Annotated[str, Form(description="a JSON object of the task set's context and its values")]
JobId = Annotated[str, InPath(pattern=r"^[\w\-]{22}$")]


class Health(Exact):
    """That the server runs, and who answers."""

    status: str
    warnings: list[str]
    model: dict


class Failed(Exact):
    """A clip that could not be looked at, or a form that is none."""

    detail: ClipResult | list[dict] | str


class Detail(Exact):
    """What is wrong."""

    detail: str


PLAIN: dict = {"content": {"text/plain": {"schema": {"type": "string"}}}}
# What the gate in front answers, in words.
REFUSED: dict[int | str, dict] = {
    400: {"description": "the request is damaged", **PLAIN},
    401: {"description": "a password is needed", **PLAIN},
    403: {"description": "the page of another site asks", **PLAIN},
    408: {"description": "the body came too slowly", **PLAIN},
    411: {"description": "no Content-Length", **PLAIN},
    413: {"description": "too large", **PLAIN},
}
ERRORS: dict[int | str, dict] = {
    code: {"model": Error, **PLAIN} for code in (400, 401, 403, 404, 408, 411, 413, 422, 429, 503)
}


def _taken(service: ClipService, file: UploadFile) -> tuple[Path, str]:
    """Put an upload into the private folder; returns where, and the name that it came with."""
    name = file.filename or "clip"
    path = service.place(name)
    try:
        with open(path, "wb") as target:
            while block := file.file.read(MEBIBYTE):
                target.write(block)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path, name


def _known(context: str) -> Known:
    """What a request tells of its clip. Raises HTTPException for what the task set does not take."""
    try:
        values = parse_json(context.encode()) if context else {}
        if not isinstance(values, dict):
            raise ValueError("found no JSON object, expected the task set's columns and their values")
        return known_of(values)
    except ValueError as error:
        raise HTTPException(422, f"context: {error}") from error


def add_api(app: FastAPI, service: ClipService) -> None:
    """Add the paths for clips to an app, and how all its paths' errors are told."""
    add_refusals(app)

    @app.get("/api/health", responses={401: REFUSED[401]})
    def health() -> Health:
        warnings = warnings_of(service.cascade.cards.values())
        status = "draining" if service.draining else "ok"
        return Health(status=status, warnings=warnings, model=service.cascade.identity)

    @app.post("/api/analyze", responses={**REFUSED, 422: {"model": Failed}, 503: {"model": Detail}})
    def analyze_upload(file: UploadFile, context: ToldContext = "") -> ClipResult:
        known = _known(context)
        path, name = _taken(service, file)
        try:
            result = service.look_at(path, name, draw=False, known=known).result
        except Busy as busy:
            raise HTTPException(503, str(busy), BUSY) from busy
        finally:
            path.unlink(missing_ok=True)
        if result.status == FAILED:
            raise HTTPException(422, result.as_json())
        return result

    @app.post(
        "/api/jobs", status_code=202, responses={**REFUSED, 422: {"model": Failed}, 503: {"model": Detail}}
    )
    def start_job(file: UploadFile, context: ToldContext = "") -> JobState:
        known = _known(context)
        path, name = _taken(service, file)
        try:
            return service.start_job(path, name, known)
        except Busy as busy:
            path.unlink(missing_ok=True)
            raise HTTPException(503, str(busy), BUSY) from busy

    answers: dict[int | str, dict] = {
        401: REFUSED[401],
        404: {"model": Detail, **PLAIN},
        422: {"model": Failed},
    }

    @app.get("/api/jobs/{job}", responses=answers)
    def job_state(job: JobId) -> JobState:
        state = service.jobs.state(job)
        if state is None:
            raise HTTPException(404, "no such job; those that ended long ago are forgotten")
        return state

    @app.delete("/api/jobs/{job}", responses=answers | {403: REFUSED[403], 409: {"model": Detail}})
    def forget_job(job: JobId) -> JobState:
        state = service.jobs.state(job)
        forgotten = service.jobs.forget(job)
        if state is None or forgotten is None:
            raise HTTPException(404, "no such job; those that ended long ago are forgotten")
        if not forgotten:
            raise HTTPException(409, "the job has not ended")
        return state

    @app.get("/metrics", response_class=PlainTextResponse, responses={401: REFUSED[401]})
    def metrics() -> Response:
        return Response(service.told(), media_type=CONTENT_TYPE_LATEST)


def add_chat(app: FastAPI, programs: Programs) -> None:
    """Add the paths that OpenAI's clients use."""

    @app.get("/v1/models", responses={401: REFUSED[401]})
    def models() -> ModelList:
        return ModelList(data=[Model(id=name) for name in _model_names(programs.service)])

    @app.post("/v1/files", responses=ERRORS)
    def upload(file: UploadFile) -> Uploaded:
        path, name = _taken(programs.service, file)
        size = path.stat().st_size
        return Uploaded(
            id=programs.keep_file(path), bytes=size, created_at=int(time.time()), filename=name[:200]
        )

    @app.delete("/v1/files/{file}", responses=ERRORS)
    def delete(file: FileId) -> Deleted:
        if not programs.drop_file(file):
            raise ChatError(404, "no such file")
        return Deleted(id=file)

    @app.post("/v1/chat/completions", responses={200: {"model": ChatCompletion, "content": {
        "text/event-stream": {"schema": {"type": "string"}}}}, **ERRORS})  # fmt: skip
    def complete(request: ChatRequest) -> Response:
        return _complete(programs, request)


def _model_names(service: ClipService) -> dict[str, str | None]:
    """{the name that programs use: the adapter that answers}"""
    choices = service.cascade.adapter_choices()
    return {"crashchat": choices[0], **{name: name for name in choices if name}}


def _name() -> str:
    """A name for an answer."""
    return f"chatcmpl-{secrets.token_urlsafe(16)}"


def _complete(programs: Programs, request: ChatRequest) -> Response:
    """The answer to a program's question, whole or streamed. Raises ChatError."""
    names = _model_names(programs.service)
    if request.model not in names:
        raise ChatError(404, f"there is no model {request.model!r}; known are {', '.join(names)}")
    text, video = question_of(request)
    limit = request.max_completion_tokens or request.max_tokens
    with ExitStack() as stack:
        try:
            stack.enter_context(programs.service.slot())
            asked = programs.open_video(video, stack)
        except Busy as busy:
            raise ChatError(503 if programs.service.draining else 429, str(busy)) from busy
        except Gone as gone:
            raise ChatError(404, str(gone)) from gone
        except VideoError as error:
            raise ChatError(422, f"the video: {error.cause}") from error
        say = partial(programs.say, asked, text, adapter=names[request.model], most=limit)
        if request.stream:
            # What was taken is given back when the answer has ended, whether anybody listens or not.
            held = stack.pop_all()

            def streamed(heard: Callable[[str], None]) -> bool:
                with held:
                    return say(heard=heard).ended

            events = chunks(_name(), request.model, streamed)
            return StreamingResponse(events, media_type="text/event-stream")
        said = say()
    completion = ChatCompletion(
        id=_name(),
        created=int(time.time()),
        model=request.model,
        choices=[Choice(message=Reply(content=said.text), finish_reason="stop" if said.ended else "length")],
        usage=Usage(
            prompt_tokens=said.asked,
            completion_tokens=said.answered,
            total_tokens=said.asked + said.answered,
        ),
    )
    return JSONResponse(completion.model_dump())
