"""What is said of a video: one task's answer, and what the cascade makes of all of them."""

from dataclasses import dataclass, field

from crashchat.tasks import TASKS, Fact, Group


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    task: the question's, None for a general one. adapter: the group whose adapter gave it, None without
    adapters.
    raw_response: the model's words. crash_probability: of recognition's 'Yes' against 'No', from their
    logits; else None. certainty: the geometric mean of its tokens' probabilities; None for times read off
    attention. option_probabilities: of each answer that there is, where that was asked for.
    first_response: what was said at first, where the question was asked again of a part.
    """

    task: str | None
    adapter: Group | None
    raw_response: str
    # Last digits vary with what is asked together.
    crash_probability: float | None = field(default=None, compare=False)
    certainty: float | None = field(default=None, compare=False)
    option_probabilities: dict[str, float] | None = field(default=None, compare=False)
    first_response: str | None = None

    @property
    def values(self) -> dict | None:
        """What it parses to, {pred field: value}; None where it does not parse or is no task's."""
        return TASKS[self.task].parse(self.raw_response) if self.task else None


@dataclass(frozen=True)
class CascadeOutput:
    """What the cascade says of one stretch of video; times in seconds from the stretch's start.

    crash: None where recognition answered neither 'Yes' nor 'No'. probability: of 'Yes' against 'No', from
    their logits; None where no task asks whether there is a crash.
    """

    crash: bool | None
    probability: float | None
    answers: tuple[Answer, ...]

    def values(self, fact: Fact) -> list | None:
        """What the answer that tells a fact parses to, field by field; None where it was not asked or does
        not parse.
        """
        task = TASKS.of_fact(fact)
        given = next((answer.values for answer in self.answers if task and answer.task == task.name), None)
        return None if given is None else list(given.values())
