"""One record of a file of questions -> video, question and answer, in the two forms that JSON files have.

Released, and ShareGPT's:

    {"video": ["videos/cap_21_008073.mp4"], "source": "MM-AU-CAP",
     "conversations": [{"from": "human", "value": "<video>\\n…"}, {"from": "gpt", "value": "Yes"}]}

Messages, as chat interfaces have them:

    {"messages": [{"role": "user", "content": [{"type": "video", "video": "videos/a.mp4"},
                                               {"type": "text", "text": "…"}]},
                  {"role": "assistant", "content": "Yes"}]}
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from crashchat.errors import CrashChatError, abbreviate
from crashchat.json_files import each_item, parse_json, read_json
from crashchat.parts import span_of
from crashchat.tasks import question_text

MAX_PATH, MAX_NAME = 4000, 255  # bytes of a path, with room for the data folder's, and of one name in it
EXPECTED = "a list of records"
ROLES = {"human": "question", "user": "question", "gpt": "answer", "assistant": "answer"}


class AnnotationError(CrashChatError):
    """One or more annotation records that cannot be used; the message names every one."""

    everywhere = True


def read_records(path: Path) -> list:
    """The records of an annotation file.

    Raises AnnotationError for a file that does not hold a list of some.
    """
    return _some(read_json(path, AnnotationError, EXPECTED), path)


def _some(records: object, path: Path) -> list:
    if not isinstance(records, list):
        raise AnnotationError(f"{path}: found a {type(records).__name__}, expected {EXPECTED}")
    if not records:
        raise AnnotationError(f"{path}: holds no records")
    return records


def each_record(path: Path) -> Iterator[object]:
    """The same one after the other, of which only a few are in memory at a time."""
    found = False
    for record in each_item(path, AnnotationError, EXPECTED):
        found = True
        yield record
    if not found:
        read_records(path)  # says what it is instead


def each_line(path: Path) -> Iterator[object]:
    """The JSON values of a file with one a line; a line that is none is a ValueError in its place.

    Raises AnnotationError for a file that cannot be read, or holds none.
    """
    found = False
    try:
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    found = True
                    try:
                        yield parse_json(line)
                    except ValueError as error:
                        yield ValueError(f"not JSON ({error}), expected an object")
                else:
                    yield None  # so that lines are numbered as an editor numbers them
    except OSError as error:
        raise AnnotationError(
            f"{path}: cannot be read: {error.strerror}; expected a record a line"
        ) from error
    if not found:
        raise AnnotationError(f"{path}: holds no records")


@lru_cache(maxsize=2**16)  # each video is asked several questions
def check_video(video: str, what: str = "'video'") -> None:
    """Raises ValueError for what cannot be the path of a file below the data folder.

    what: where it was found, for the message.
    """
    try:
        sizes = [len(os.fsencode(part)) for part in (video, *Path(video).parts)]
    except UnicodeEncodeError:  # half of a pair of surrogates
        sizes = [0]
    if not 0 < sizes[0] <= MAX_PATH or max(sizes[1:], default=0) > MAX_NAME or "\0" in video:
        raise ValueError(
            f"{what} is {abbreviate(video)} ({len(video):,} characters), expected a path that a file can "
            f"have: at most {MAX_PATH:,} bytes, {MAX_NAME} a name"
        )
    if Path(video).is_absolute() or ".." in Path(video).parts:
        raise ValueError(f"{what} is {abbreviate(video)}, expected a path below the data folder")
    span_of(video)


def check_text(*texts: str | None) -> None:
    """Raises ValueError for a text that no file and no tokenizer can hold: half of a character, say."""
    for text in texts:
        if text and not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            raise ValueError(f"the text {abbreviate(text)} holds half of a character, expected whole ones")


def parse_record(record: object) -> tuple[str, str, str, str | None]:
    """(video name, question, answer, source) of one released record; ValueError says what is wrong."""
    if not isinstance(record, dict):
        raise ValueError(f"found a {type(record).__name__}, expected an object")
    video = record.get("video")
    if isinstance(video, list) and len(video) == 1:
        video = video[0]
    if not isinstance(video, str) or not video:
        raise ValueError(f"'video' is {abbreviate(record.get('video'))}, expected a list of one path")
    check_video(video)
    turns = record.get("conversations")
    if (
        not isinstance(turns, list)
        or len(turns) != 2
        or not all(isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns)
        or [turn.get("from") for turn in turns] != ["human", "gpt"]
    ):
        raise ValueError("'conversations' is not one human turn and one gpt turn, each with a text 'value'")
    question, answer = question_text(turns[0]["value"]), turns[1]["value"].strip()
    if not question or not answer:
        raise ValueError("the question or the answer is empty")
    source = record.get("source")
    if source is not None and not isinstance(source, str):
        raise ValueError(f"'source' is {abbreviate(source)}, expected a text")
    check_text(question, answer, source)
    return video, question, answer, source


def parse_messages(record: object, video_key: str = "video") -> tuple[str, str, str]:
    """(video name, question, answer) of one record of chat messages, or of ShareGPT's conversations.

    The video is below `video_key`, in a list `videos` of one, or a part of the question. ValueError says what
    is wrong.
    """
    if isinstance(record, ValueError):
        raise record
    if not isinstance(record, dict):
        raise ValueError(f"found a {type(record).__name__}, expected an object")
    key = next((key for key in ("messages", "conversations") if key in record), None)
    if key is None:
        raise ValueError(f"found the keys {abbreviate(sorted(record))}, expected messages or conversations")
    turns = record[key]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"{key!r} is {abbreviate(turns)}, expected a list of messages")
    roles = [turn.get("role", turn.get("from")) for turn in turns]
    if [ROLES.get(str(role)) for role in roles] != ["question", "answer"]:
        raise ValueError(
            f"{key!r} has the roles {abbreviate(roles)}, expected one question (user or human) and one "
            "answer (assistant or gpt): each question is a record of its own"
        )
    (question, videos), (answer, _) = (
        _content(turn.get("content", turn.get("value")), f"{key}.{number}")
        for number, turn in enumerate(turns)
    )
    for name in dict.fromkeys((video_key, "videos")):
        value = record.get(name)
        videos += value if isinstance(value, list) else [value] if value is not None else []
    if len(videos) != 1 or not isinstance(videos[0], str) or not videos[0]:
        raise ValueError(
            f"{video_key!r} is {abbreviate(videos)}, expected one path, below {video_key!r}, 'videos' or "
            "in the question"
        )
    check_video(videos[0], f"{video_key!r}")
    question, answer = question_text(question), answer.strip()
    if not question or not answer:
        raise ValueError("the question or the answer is empty")
    check_text(question, answer)
    return videos[0], question, answer


def _content(content: object, where: str) -> tuple[str, list]:
    """The text of a message, and the videos in it."""
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise ValueError(f"{where!r} has {abbreviate(content)}, expected a text or a list of parts")
    texts, videos = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("video", "video_url"):
            value = part.get(kind, part.get("path"))
            videos.append(value.get("url") if isinstance(value, dict) else value)
        else:
            raise ValueError(f"{where!r} has the part {abbreviate(part)}, expected a text or a video")
    return "\n".join(texts), videos
