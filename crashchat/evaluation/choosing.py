"""How an evaluation chooses the words of its answers: the likeliest, or drawn by a seed."""

from crashchat.answering.draws import Draw
from crashchat.data.annotations import Question
from crashchat.evaluation_settings import EvalConfig


def draw_of(config: EvalConfig, question: Question) -> Draw | None:
    """How a question's answer is drawn: by a seed of its own, whatever is asked beside it."""
    if config.temperature is None:
        return None
    seed = f"{config.seed}/{question.task}/{question.data_id}"
    return Draw(seed, config.temperature, 1.0 if config.top_p is None else config.top_p)


def choosing(config: EvalConfig) -> str:
    """How an answer's words are chosen."""
    if config.temperature is None:
        return "greedy"
    top_p = "" if config.top_p is None else f" from the top {config.top_p}"
    return f"drawn{top_p} at temperature {config.temperature}, seed {config.seed}"
