"""What `crashchat serve` does with videos and questions of programs; no HTTP here."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from crashchat.answering.engines import VideoContext
from crashchat.answering.generate import decode
from crashchat.model.sequence import Branch, branch_token_ids, prefix_ids
from crashchat.serving.clip_service import ClipService, Gone
from crashchat.video.reading import read_visual_tokens
from crashchat.video.source import VideoError, probe


class Reply(NamedTuple):
    """An answer to a program: its text, whether it ended by itself, and tokens of question and answer."""

    text: str
    ended: bool
    asked: int
    answered: int


class Programs:
    """Keeps the videos that programs upload, and answers their questions. Threads share it."""

    def __init__(self, service: ClipService):
        self.service = service
        self._files: OrderedDict[str, Path] = OrderedDict()
        self._lock = threading.Lock()

    def keep_file(self, path: Path) -> str:
        """Keep an upload of a program under an id, which is returned; where there are too many, the longest
        unused is deleted.
        """
        name = f"file-{secrets.token_urlsafe(16)}"
        with self._lock:
            self._files[name] = path
            oldest = next(iter(self._files)) if len(self._files) > self.service.limits.kept else None
        if oldest is not None:
            self.drop_file(oldest)
        return name

    def drop_file(self, name: str) -> bool:
        """Delete a program's upload; whether there was one."""
        with self._lock:
            path = self._files.pop(name, None)
        if path is not None:
            path.unlink(missing_ok=True)
        return path is not None

    def open_video(self, video: bytes | str, stack: ExitStack) -> VideoContext:
        """A video that a program sent, or the id of its upload, as the model takes it in.

        stack: what is temporary goes with it. Raises Gone for an id that is none, and VideoError.
        """
        if isinstance(video, bytes):
            path = self.service.place("clip")
            stack.callback(path.unlink, missing_ok=True)
            path.write_bytes(video)
        else:
            with self._lock:
                if video not in self._files:
                    raise Gone("no such file; upload it again")
                self._files.move_to_end(video)
                path = self._files[video]
        source = probe(path)
        seconds = source.timeline.end if source.timeline else None
        if seconds is None or seconds > self.service.limits.max_seconds:
            lasts = "its frames carry no times" if seconds is None else f"lasts {seconds:.0f} s"
            raise VideoError(
                path, f"{lasts}; expected a video of {self.service.limits.max_seconds:.0f} s at most"
            )
        return VideoContext([read_visual_tokens(str(path), self.service.cascade.answerer.settings)])

    def say(
        self,
        context: VideoContext,
        question: str,
        adapter: str | None,
        most: int | None,
        heard: Callable[[str], None] = lambda text: None,
    ) -> Reply:
        """The answer to a program's question on a video. most: tokens at most. heard: given all the text so
        far, again and again.
        """
        answerer = self.service.cascade.answerer

        def text(tokens: list[int]) -> str:
            return decode(answerer.tokenizer, tokens)

        tokens = self.service.cascade.say(
            context,
            question,
            adapter,
            most=most,
            heard=lambda so_far: heard(text(so_far)),
        )
        heard(text(tokens))
        (visual,) = context.visuals
        asked = len(prefix_ids(answerer.tokenizer, visual.seconds, visual.kept_per_frame))
        asked += len(branch_token_ids(answerer.tokenizer, Branch(question))[0])
        limit = min(most or answerer.max_new_tokens, answerer.max_new_tokens)
        return Reply(text(tokens), len(tokens) < limit, asked, len(tokens))
