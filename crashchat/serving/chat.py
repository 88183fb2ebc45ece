"""Questions from programs in the form that OpenAI's clients speak: one video, one text, one answer.

A video comes inside the request, as a data URL, or was uploaded before. An address is never fetched and a
path never opened: whoever may ask could otherwise read what this machine can.
"""

import base64
import binascii
import json
import queue
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from crashchat.json_files import Exact, Lenient

LONGEST_TEXT = 2000  # of a question, in characters
LONGEST_ANSWER = 10**5  # tokens that may be asked for
DATA_URL = r"^data:video/[a-z0-9.+\-]{1,40};base64,[A-Za-z0-9+/]+={0,2}$"
WHOLE_DATA_URL = re.compile(DATA_URL)
Url = Annotated[str, StringConstraints(pattern=DATA_URL)]
# JSON does not tell 5.0 from 5.
Count = Annotated[
    int, BeforeValidator(lambda value: int(value) if isinstance(value, float) and value % 1 == 0 else value)
]
FileId = Annotated[str, StringConstraints(pattern=r"^file-[\w\-]{22}$")]


class TextPart(Lenient):
    """The question, or a part of it."""

    type: Literal["text"]
    text: str = Field(min_length=1, max_length=LONGEST_TEXT)


class VideoUrl(Lenient):
    """A video inside the request."""

    url: Url = Field(description="data:video/mp4;base64,…; no address is fetched")


class VideoPart(Lenient):
    """A video inside the request."""

    type: Literal["video_url"]
    video_url: VideoUrl


class File(Lenient):
    """A video that was uploaded to /v1/files."""

    file_id: FileId


class FilePart(Lenient):
    """A video that was uploaded before."""

    type: Literal["file"]
    file: File


Part = Annotated[TextPart | VideoPart | FilePart, Field(discriminator="type")]


class Message(Lenient):
    """What a person says: one video, and a question on it."""

    role: Literal["user"]
    content: list[Part] = Field(min_length=2, max_length=8)


class ChatRequest(Lenient):
    """One question on one video; it is answered by itself, greedily."""

    model: str = Field(min_length=1, max_length=100)
    messages: list[Message] = Field(min_length=1, max_length=1)
    stream: bool = False
    max_tokens: Count | None = Field(default=None, ge=1, le=LONGEST_ANSWER)
    max_completion_tokens: Count | None = Field(default=None, ge=1, le=LONGEST_ANSWER)
    temperature: float | None = Field(default=None, ge=0, le=0)
    n: Count | None = Field(default=None, ge=1, le=1)


class Reply(Exact):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(Exact):
    """The one answer."""

    index: Literal[0] = 0
    message: Reply
    finish_reason: Literal["stop", "length"]


class Usage(Exact):
    """Tokens: of video and question, and of the answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(Exact):
    """An answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Model(Exact):
    """One that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "crashchat"


class ModelList(Exact):
    """Those that can be asked."""

    object: Literal["list"] = "list"
    data: list[Model]


class Uploaded(Exact):
    """A video that was uploaded."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["vision"] = "vision"


class Deleted(Exact):
    """A file that was deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class ErrorBody(Exact):
    """What is wrong."""

    message: str
    type: str
    code: int


class Error(Exact):
    """An error as OpenAI's clients read it."""

    error: ErrorBody


class ChatError(Exception):
    """What a program asked for that it cannot have; answered with `status` and the message."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def question_of(request: ChatRequest) -> tuple[str, bytes | str]:
    """(the question, the video's bytes or the id of its file).

    Raises ChatError where there is not one video and a question.
    """
    texts = [part.text for part in request.messages[0].content if isinstance(part, TextPart)]
    videos = [part for part in request.messages[0].content if not isinstance(part, TextPart)]
    if len(videos) != 1 or not texts:
        raise ChatError(
            400, f"found {len(videos)} videos and {len(texts)} texts, expected one video and a text"
        )
    (video,) = videos
    text = "\n".join(texts)
    if isinstance(video, FilePart):
        return text, video.file.file_id
    try:
        return text, base64.b64decode(video.video_url.url.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise ChatError(400, f"the video's base64 is damaged: {error}") from error


def chunks(name: str, model: str, say: Callable[[Callable[[str], None]], bool]) -> Iterator[str]:
    """An answer as server-sent events, each with what was said since the last.

    say: has the answer made, and calls what it is given with all the text so far; returns whether it ended by
    itself. It runs in a thread of its own, so that a client who leaves does not leave half an answer behind.
    """
    heard: queue.Queue[str | bool | Exception] = queue.Queue()

    def work() -> None:
        try:
            heard.put(say(heard.put))
        except Exception as error:  # told to the client, as its request cannot fail any more
            traceback.print_exc()
            heard.put(error)

    threading.Thread(target=work, daemon=True).start()
    created, told = int(time.time()), ""

    def event(delta: dict, reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        value = {"id": name, "object": "chat.completion.chunk", "created": created, "model": model}
        return f"data: {json.dumps(value | {'choices': [choice]}, ensure_ascii=False)}\n\n"

    yield event({"role": "assistant", "content": ""})
    while isinstance(said := heard.get(), str):
        # Half a letter of several bytes is shown as a mark until its rest is there.
        if said.startswith(told) and len(said) > len(told) and not said.endswith("\ufffd"):
            yield event({"content": said[len(told) :]})
            told = said
    if isinstance(said, Exception):
        fault = Error(error=ErrorBody(message=f"{type(said).__name__}", type="server_error", code=500))
        yield f"data: {fault.model_dump_json()}\n\n"
    else:
        yield event({}, "stop" if said else "length")
    yield "data: [DONE]\n\n"
