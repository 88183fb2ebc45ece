"""Answers of the model that a person corrected, as pairs of a better and a worse one."""

from crashchat.analysis.results import ClipResult
from crashchat.tasks import TASKS


def rejected_answers(result: ClipResult, answers: dict[str, str]) -> dict[str, str]:
    """{task: what the model answered} where a person gave another answer.

    answers: {task: the person's}. Only of clips that the model saw as a whole: to a part of a recording,
    the person's answer is none.
    """
    if len(result.windows) != 1:
        return {}
    found = {}
    for answer in result.windows[0].answers:
        better, worse = answers.get(answer.task), answer.raw_response.strip()
        if better and worse and TASKS[answer.task].parse(worse) != TASKS[answer.task].parse(better):
            found[answer.task] = worse
    return found
