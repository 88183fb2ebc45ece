"""The whole system: one frozen base, a linguistic and a perception adapter (LoRA and projector),
and the cascade between them.

    frames -> vision features, once
           -> linguistic adapter: prefix -> recognition, description, cause, prevention
                'Yes' -> perception adapter: prefix once more, as its projector is another -> crash interval,
                first sign 'No'  -> nothing to localize

One merged model, or one adapter for all tasks, is the same without the switch: its one prefix answers all
six.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from itertools import compress, islice
from types import MappingProxyType
from typing import NamedTuple

from crashchat.answering.answerer import Answerer, Asked, fits_at_once, tokens_at_once
from crashchat.answering.engines import BASE, VideoContext
from crashchat.answering.generate import decode
from crashchat.answering.outputs import Answer, CascadeOutput
from crashchat.answering.time_heads import TimeHeads
from crashchat.answering.together import Together
from crashchat.checkpoints.model_card import ModelCard
from crashchat.evaluation_settings import EvalConfig
from crashchat.tasks import TASKS, Group, Task
from crashchat.tasks.task import CRASH

# The groups of tasks that have an adapter each where there are two.
LINGUISTIC, PERCEPTION = "linguistic", "perception"
MAX_VISUAL_TOKENS = EvalConfig.model_fields["max_visual_tokens"].default
MAX_NEW_TOKENS = EvalConfig.model_fields["max_new_tokens"].default


class _Run(NamedTuple):
    """What `Cascade.run` is called with."""

    context: VideoContext
    progress: Callable[[str], None]
    known: Mapping[str, str]


class _Say(NamedTuple):
    """What `Cascade.say` is called with."""

    context: VideoContext
    question: str
    adapter: str | None
    most: int | None
    heard: Callable[[list[int]], None]


class Cascade:
    """An answerer and its two groups of adapters. Threads may share it: what several of them ask while the
    model works is answered together next.

    adapters: {group: the PEFT adapter's name}, empty for a model without. cards: {BASE or group: its card,
    None where it has none}. identity: what `load_cascade` found, see there.
    """

    def __init__(
        self,
        answerer: Answerer,
        adapters: dict[str, str],
        cards: dict[str, ModelCard | None],
        identity: "Future[dict]",
    ):
        self.answerer, self.adapters, self.cards, self._identity = answerer, adapters, cards, identity
        self._lock = threading.RLock()
        self._runs = Together(self._run, self._fit, self._lock)
        self._says = Together(self._say, self._same_adapter, self._lock)

    @property
    def identity(self) -> dict:
        """{"base": {"name", "sha256", "trained_on", "unknown"}, "linguistic": … or None,
        "perception": … or None}; the last two as in results.py.
        """
        return self._identity.result()

    def _ask(
        self,
        context: VideoContext,
        group: Group,
        tasks: list[list[Task]],
        known: Mapping[str, str] = MappingProxyType({}),
        heads: TimeHeads | None = None,
    ) -> list[list[Answer]]:
        """The answers to some tasks of a group on each video."""
        told = TASKS.task_set.told
        questions = [
            [Asked.of(task.name, told(task.name, known) if known else "") for task in row] for row in tasks
        ]
        own = self.adapters.get(group), group if self.adapters else None
        if heads:
            return self.answerer.read(context, questions, heads, *own)
        return self.answerer.answer(context, questions, *own)

    def run(
        self,
        context: VideoContext,
        progress: Callable[[str], None] = lambda step: None,
        known: Mapping[str, str] = MappingProxyType({}),
    ) -> list[CascadeOutput]:
        """Run the cascade on some stretches of video, all at once. progress: called with what comes next.
        known: {column of the task set's context: its value}, of all of them.

        Groups of tasks are asked one after the other, and in each first what is always asked, then what hangs
        on answers that are there by then.
        """
        return self._runs(_Run(context, progress, known))

    def ask_tasks(
        self,
        context: VideoContext,
        tasks: list[list[Task]],
        known: Mapping[str, str] = MappingProxyType({}),
        heads: TimeHeads | None = None,
    ) -> list[list[Answer]]:
        """The answers to some tasks on each stretch of video, by themselves. known: see run. heads: what
        times are read off, instead of being asked for.
        """
        answers: list[list[Answer]] = [[] for _ in tasks]
        with self._lock:
            for group, names in TASKS.groups.items():
                asked = {row: own for row, all_of in enumerate(tasks) if (own := _among(all_of, names))}
                if asked:
                    found = self._ask(
                        context.only(list(asked)), group, list(asked.values()), known, heads=heads
                    )
                    for row, more in zip(asked, found, strict=True):
                        answers[row] += more
        return answers

    def crash_probabilities(
        self, context: VideoContext, known: Mapping[str, str] = MappingProxyType({})
    ) -> list[float | None]:
        """How likely a crash is on each stretch of video, and nothing else; known: see run."""
        task = TASKS.of_fact(CRASH)
        assert task is not None, "cascade_of plans a first pass with a task that asks for it alone"
        answers = self.ask_tasks(context, [[task]] * len(context.visuals), known)
        return [answer.crash_probability for (answer,) in answers]

    def _at_once(self, calls: Sequence["_Run | _Say"]) -> bool:
        """Whether the videos of all these calls are answered at once."""
        sizes = [visual.num_kept for call in calls for visual in call.context.visuals]
        return fits_at_once(sizes, tokens_at_once(self.answerer.device))

    def _fit(self, runs: Sequence["_Run"]) -> bool:
        """Whether the cascade runs on all of these at once."""
        return all(run.known == runs[0].known for run in runs) and self._at_once(runs)

    def _run(self, runs: Sequence["_Run"]) -> list[list[CascadeOutput]]:
        owners = [run for run in runs for _ in run.context.visuals]
        answers: list[list[Answer]] = [[] for _ in owners]
        with VideoContext.joined([run.context for run in runs]) as context:
            for group, names in TASKS.groups.items():
                left = [[TASKS[name] for name in names if TASKS[name].prompt] for _ in owners]
                while rows := [row for row, tasks in enumerate(left) if _askable(tasks, answers[row])]:
                    asked = [_askable(left[row], answers[row]) for row in rows]
                    for run in runs:
                        mine = [owners[row] is run for row in rows]
                        if own := list(compress(asked, mine)):
                            run.progress(_told(own))
                    for row, tasks, more in zip(
                        rows, asked, self._ask(context.only(rows), group, asked, runs[0].known), strict=True
                    ):
                        answers[row] += more
                        left[row] = [task for task in left[row] if task not in tasks]
        outputs = iter(map(_output, answers))
        return [list(islice(outputs, len(run.context.visuals))) for run in runs]

    def adapter_choices(self) -> list[str | None]:
        """Who can be asked free questions: the adapters and the base under them, or the one model (None)."""
        names = list(dict.fromkeys(self.adapters.values()))
        return [*names, BASE] if names else [None]

    def ask(self, context: VideoContext, question: str, adapter: str | None) -> str:
        """The answer to a person's question on one video. Asked alone, the prefix stays in `context` for the
        next.
        """
        tokens = self.say(context, question, adapter, most=None, heard=lambda answer: None)
        return decode(self.answerer.tokenizer, tokens)

    def say(
        self,
        context: VideoContext,
        question: str,
        adapter: str | None,
        most: int | None,
        heard: Callable[[list[int]], None],
    ) -> list[int]:
        """The same as tokens, `most` at most. heard: called with those so far, as they come."""
        return self._says(_Say(context, question, adapter, most=most, heard=heard))

    def _same_adapter(self, says: Sequence["_Say"]) -> bool:
        return len({say.adapter for say in says}) == 1 and self._at_once(says)

    def _say(self, says: Sequence["_Say"]) -> list[list[int]]:
        def heard(answers: list[list[list[int]]]) -> None:
            for say, (tokens,) in zip(says, answers, strict=True):
                say.heard(tokens[: say.most])

        limits = [say.most for say in says]
        with VideoContext.joined([say.context for say in says]) as context:
            told = self.answerer.engine.answer(
                context,
                [[say.question] for say in says],
                says[0].adapter,
                constraints=None,
                most=None if None in limits else max(filter(None, limits)),
                heard=heard,
            )
        return [said.tokens[: say.most] for say, (said,) in zip(says, told, strict=True)]


def _among(tasks: Sequence[Task], names: Sequence[str]) -> list[Task]:
    """Those tasks that have one of some names."""
    return [task for task in tasks if task.name in names]


def _askable(tasks: list[Task], answers: list[Answer]) -> list[Task]:
    """Those tasks whose conditions hold after some answers."""
    said = {
        answer.task: next(iter(answer.values.values())) for answer in answers if answer.task and answer.values
    }
    return [task for task in tasks if TASKS.task_set.is_asked(task, said)]


def _told(asked: list[list[Task]]) -> str:
    """What is asked next, in words."""
    titles = dict.fromkeys(task.title for tasks in asked for task in tasks)
    return f"asking about {', '.join(titles)}"


def _output(answers: list[Answer]) -> CascadeOutput:
    task = TASKS.of_fact(CRASH)
    found = next((answer for answer in answers if task and answer.task == task.name), None)
    label = next(iter(found.values.values())) if found and found.values else None
    probability = (found.crash_probability or 0.0) if found else None
    return CascadeOutput(None if label is None else label == "Yes", probability, tuple(answers))
