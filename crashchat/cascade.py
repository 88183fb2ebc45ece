"""The whole system: one frozen base, a linguistic and a perception adapter (LoRA and projector), and the cascade between them.

    frames -> vision features, once
           -> linguistic adapter: prefix -> recognition, description, cause, prevention
                'Yes' -> perception adapter: prefix once more, as its projector is another -> crash interval, first sign
                'No'  -> nothing to localize

One merged model, or one adapter for all tasks, is the same without the switch: its one prefix answers all six.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from crashchat.adapters import CONFIG_FILE, LORA_FILE, PROJECTOR_FILE, load_adapter
from crashchat.batches import VideoSettings
from crashchat.checkpoints import load_model, load_tokenizer, load_video_settings
from crashchat.config import Decode, EvalConfig
from crashchat.constraints import constraint_for
from crashchat.generate import Prefix, answer_from_prefix, decode, encode, prefill, yes_and_no, yes_probability
from crashchat.layouts import CheckpointError, read_vision_config
from crashchat.tasks import GROUPS, LINGUISTIC, PERCEPTION, TASKS, Task
from crashchat.vision import VisualTokens

BASE = "base"  # the base model without any adapter, as free questions may be put to it
MAX_VISUAL_TOKENS = EvalConfig.model_fields["max_visual_tokens"].default
MAX_TOKENS_PER_BATCH = EvalConfig.model_fields["max_tokens_per_batch"].default
MAX_NEW_TOKENS = EvalConfig.model_fields["max_new_tokens"].default


@dataclass(frozen=True)
class Answer:
    """One task's answer. adapter: the group whose adapter gave it. values: what it parses to, {pred field: value}, or None."""

    task: str
    adapter: str | None
    raw_response: str
    values: dict | None


@dataclass(frozen=True)
class Verdict:
    """What the cascade says of one stretch of video; times in seconds from the stretch's start.

    crash: None where recognition answered neither 'Yes' nor 'No'. probability: of 'Yes' against 'No', from their logits.
    """

    crash: bool | None
    probability: float
    answers: tuple[Answer, ...]

    def value(self, task: str) -> dict:
        """What a task's answer parses to; empty where it was not asked or does not parse."""
        return next((answer.values or {} for answer in self.answers if answer.task == task), {})


@dataclass
class Look:
    """Videos in front of the model together: tokens, vision features, and prefixes under the adapter that read them last."""

    visuals: list[VisualTokens]
    features: Tensor | None = None
    prefix: Prefix | None = None
    adapter: str | None = None

    def only(self, rows: list[int]) -> "Look":
        """Some of the videos, with their features; this look itself where they are all of them."""
        if len(rows) == len(self.visuals):
            return self
        pieces = self.features.split([visual.num_kept for visual in self.visuals])
        return Look([self.visuals[row] for row in rows], torch.cat([pieces[row] for row in rows]))


class Cascade:
    """A loaded model with its adapters. Threads may share it: one at a time is let in.

    adapters: {group: the PEFT adapter's name}, empty for a model without. identity: what `load_cascade` found, see there.
    decode: "free" or "constrained" (constraints.py); questions of people are always answered freely.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        settings: VideoSettings,
        adapters: dict[str, str],
        identity: "Future[dict]",
        max_new_tokens: int = MAX_NEW_TOKENS,
        decode: Decode = "free",
    ):
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.adapters, self.max_new_tokens, self.decode = adapters, max_new_tokens, decode
        self._identity = identity
        self._lock = threading.RLock()
        # A released adapter may hold LoRA on the vision encoder too; then each has features of its own.
        self._one_vision = not any("vision_model" in name and "lora_" in name for name, _ in model.named_parameters())
        try:
            self._yes_no = yes_and_no(tokenizer)
        except ValueError as error:
            raise CheckpointError(str(error)) from error

    @property
    def identity(self) -> dict:
        """{"base": {"name", "sha256"}, "linguistic": … or None, "perception": … or None}."""
        return self._identity.result()

    @contextmanager
    def _under(self, look: Look, adapter: str | None) -> Iterator[Prefix]:
        """The prefixes of a look under an adapter (None: whatever the model is, BASE: the base alone), made where needed."""
        bare = adapter == BASE and isinstance(self.model, PeftModel)
        if isinstance(self.model, PeftModel) and not bare:
            self.model.set_adapter(adapter)
        context = self.model.disable_adapter() if bare else torch.no_grad()
        with context:
            if look.prefix is None or look.adapter != adapter:
                look.prefix = None  # the old one's memory is free before the new one is made
                if look.features is None or not self._one_vision:
                    look.features = encode(self.model, look.visuals)
                look.prefix = prefill(self.model, self.tokenizer, look.visuals, look.features)
                look.adapter = adapter
            try:
                yield look.prefix
            except BaseException:
                look.prefix = None  # half an answer may stand in its cache
                raise

    def _ask(self, look: Look, group: str) -> tuple[list[list[Answer]], list[Tensor]]:
        """The answers to a group's tasks on each video, and the logits of their first tokens, float[tasks, vocabulary]."""
        tasks = [TASKS[name] for name in GROUPS[group]]
        constraints = None
        if self.decode == "constrained":
            constraints = [
                [constraint_for(task.name, self.tokenizer, self.settings.end_of(visual)) for task in tasks]
                for visual in look.visuals
            ]
        with self._under(look, self.adapters.get(group)) as prefix:
            prompts = [[task.prompt for task in tasks]] * len(look.visuals)
            most = self.max_new_tokens
            tokens, logits = answer_from_prefix(self.model, self.tokenizer, prefix, prompts, most, constraints)
        return [[self._answer(task, group, ids) for task, ids in zip(tasks, row, strict=True)] for row in tokens], logits

    def _answer(self, task: Task, group: str, token_ids: list[int]) -> Answer:
        text = decode(self.tokenizer, token_ids)
        return Answer(task.name, group if self.adapters else None, text, task.parse(text))

    def judge(self, look: Look, progress: Callable[[str], None] = lambda step: None) -> list[Verdict]:
        """Run the cascade on some stretches of video, all at once. progress: told what comes next."""
        with self._lock:
            progress("is there a crash, what happens, and why?")
            answers, logits = self._ask(look, LINGUISTIC)
            place = GROUPS[LINGUISTIC].index("crash_recognition")
            labels = [given[place].values for given in answers]
            crashes = [None if label is None else label["pred_label"] == "Yes" for label in labels]
            if rows := [row for row, crash in enumerate(crashes) if crash]:
                progress("when does it happen?")
                for row, more in zip(rows, self._ask(look.only(rows), PERCEPTION)[0], strict=True):
                    answers[row] += more
        probabilities = [yes_probability(first[place], self._yes_no) for first in logits]
        return [Verdict(*found, tuple(given)) for *found, given in zip(crashes, probabilities, answers, strict=True)]

    def voices(self) -> list[str | None]:
        """Who can be asked free questions: the adapters and the base under them, or the one model (None)."""
        names = list(dict.fromkeys(self.adapters.values()))
        return [*names, BASE] if names else [None]

    def ask(self, look: Look, question: str, voice: str | None) -> str:
        """The answer to a free question on one video; the prefix stays in `look` for the next."""
        with self._lock, self._under(look, voice) as prefix:
            tokens, _ = answer_from_prefix(self.model, self.tokenizer, prefix, [[question]], self.max_new_tokens)
        return decode(self.tokenizer, tokens[0][0])


def content_hash(folder: Path, names: list[str] | None = None) -> str:
    """SHA-256 over the names and contents of a folder's own files (or of those `names` that are there), as hex."""
    kinds = {".safetensors", ".bin", ".json", ".txt"}
    paths = sorted(
        path for path in folder.iterdir() if path.is_file() and (path.name in names if names else path.suffix in kinds)
    )
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def load_cascade(
    model_folder: Path,
    linguistic: Path | None = None,
    perception: Path | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    max_visual_tokens: int = MAX_VISUAL_TOKENS,
    token_compression: bool = True,
    max_new_tokens: int = MAX_NEW_TOKENS,
    decode: Decode = "free",
    vision_config: Path | None = None,
    device: torch.device | None = None,
) -> Cascade:
    """A model folder of any layout, with two adapters, one (the same folder twice) or none.

    The content hashes are computed beside the loading; `Cascade.identity` waits for them. Raises CheckpointError for what does
    not load, and for one adapter without the other.
    """
    if (linguistic is None) != (perception is None):
        raise CheckpointError(
            "a linguistic and a perception adapter belong together; name one folder twice if it answers all tasks"
        )
    folders = {LINGUISTIC: linguistic, PERCEPTION: perception} if linguistic else {}
    tokenizer = load_tokenizer(model_folder)
    settings = load_video_settings(model_folder, fps, max_frames, max_visual_tokens, token_compression)
    model = load_model(model_folder, tokenizer, device, vision=read_vision_config(vision_config))
    adapters: dict[str, str] = {}
    for group, folder in folders.items():
        same = next((name for known, name in adapters.items() if folders[known].resolve() == folder.resolve()), None)
        if same is None:
            model = load_adapter(model, folder, group)
        adapters[group] = same or group

    def identify() -> dict:
        found = {BASE: {"name": model_folder.resolve().name, "sha256": content_hash(model_folder)}}
        for group in GROUPS:
            folder = folders.get(group)
            names = [CONFIG_FILE, LORA_FILE, PROJECTOR_FILE]
            found[group] = folder and {"name": folder.resolve().name, "sha256": content_hash(folder, names)}
        return found

    pool = ThreadPoolExecutor(1)
    identity = pool.submit(identify)
    pool.shutdown(wait=False)
    return Cascade(model, tokenizer, settings, adapters, identity, max_new_tokens, decode)
