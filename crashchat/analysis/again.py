"""Times of a clip, or of a recording's windows, asked again around the first answers (answering/again.py)."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from crashchat.analysis.watched import Watched
from crashchat.answering.again import Span, is_timed, moved, span_around
from crashchat.answering.engines import VideoContext
from crashchat.answering.outputs import Answer, CascadeOutput
from crashchat.tasks import TASKS
from crashchat.video.reading import read_span
from crashchat.video.source import VideoError
from crashchat.video.tokens import VisualTokens


def ask_again(
    clip: Watched, context: VideoContext, outputs: Sequence[CascadeOutput], spans: Sequence[Span]
) -> list[CascadeOutput]:
    """What was said of some stretches of a clip, (start, end) in seconds, with the times that are answered on
    their parts where clip.windows.around asks for it.

    context: the stretches as they were answered on. Where a part cannot be read the first answers stay, with
    a warning.
    """
    if clip.windows.around is None:
        return list(outputs)
    parts: dict[int, tuple[float, VisualTokens]] = {}
    for number, (answers, span) in enumerate(zip(_first_times(clip, context, outputs), spans, strict=True)):
        times = [time for answer in answers for time in (answer.values or {}).values()]
        found = span_around(times, clip.windows.around)
        last = min(span[1], span[0] + found[1]) if found else span[0]
        if found is None or last <= span[0] + found[0]:
            continue  # no time, or none within the stretch
        try:
            part = read_span(
                clip.path, clip.cascade.answerer.settings, (span[0] + found[0], last), clip.source
            )
        except VideoError as error:
            print(f"warning: times are not asked again: {error}", file=sys.stderr)
        else:
            parts[number] = found[0], part
    if not parts:
        return list(outputs)
    asked = [[TASKS[answer.task] for answer in _timed(outputs[number]) if answer.task] for number in parts]
    seen = VideoContext([visual for _, visual in parts.values()])
    said = zip(parts.items(), clip.cascade.ask_tasks(seen, asked, clip.known), strict=True)
    changed = {
        number: {one.task: moved(one, start) for one in answers} for (number, (start, _)), answers in said
    }
    return [_with(output, changed.get(number, {})) for number, output in enumerate(outputs)]


def _first_times(
    clip: Watched, context: VideoContext, outputs: Sequence[CascadeOutput]
) -> list[list[Answer]]:
    """Of each stretch the answers that say which part is asked about again: the first ones, or what heads
    look at instead.
    """
    first = [_timed(output) for output in outputs]
    heads = clip.windows.heads
    rows = [number for number, answers in enumerate(first) if answers]
    if not heads or not rows:
        return first
    asked = [[TASKS[one.task] for one in first[row] if one.task in heads.tasks] for row in rows]
    read = clip.cascade.ask_tasks(context.only(rows), asked, clip.known, heads)
    found = dict(zip(rows, read, strict=True))
    return [found.get(number, []) for number in range(len(outputs))]


def _timed(output: CascadeOutput) -> list[Answer]:
    """The answers on times that parse."""
    return [answer for answer in output.answers if is_timed(answer.task) and answer.values]


def _with(output: CascadeOutput, again: Mapping[str | None, Answer]) -> CascadeOutput:
    """An output with some of its answers given anew; one that does not parse this time leaves the first."""
    answers = []
    for first in output.answers:
        new = again.get(first.task)
        taken = new is not None and new.values is not None
        answers.append(replace(new, first_response=first.raw_response) if new and taken else first)
    return replace(output, answers=tuple(answers))
