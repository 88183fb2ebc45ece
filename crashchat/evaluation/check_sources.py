"""The sources of a config (`data:`), looked through as check_data.py looks through a data folder."""

from collections.abc import Sequence

from crashchat.config import ConfigError
from crashchat.data.annotations import NoQuestions
from crashchat.data.records import AnnotationError
from crashchat.data.sources import load_sources
from crashchat.data_settings import SplitName
from crashchat.evaluation.check import Check, Video
from crashchat.settings import Settings
from crashchat.tasks import TASKS


def read_sources(check: Check, config: Settings, splits: Sequence[SplitName], required: bool) -> None:
    """Read the questions of some splits; what cannot be used of them is found, and the rest goes on.

    required: whether a split without rows is an error. Raises ConfigError for a config without sources.
    """
    if not config.data:
        raise ConfigError(f"{check.title}: has no `data:`; expected a config that names its sources")
    check.files = sum(len(source.path) or 1 for source in config.data)
    for split in splits:
        check.videos[split] = {}
        problems: list[str] = []
        context = tuple(TASKS.task_set.context) if config.context else ()
        try:
            videos = load_sources(
                config.data, split, config.data_dir, None, context=context, refused=problems
            )
        except NoQuestions as error:
            videos = []
            if required:
                check.add("missing or unusable file", split, check.title, str(error))
        except AnnotationError as error:
            videos = []
            check.add("missing or unusable file", split, check.title, str(error))
        for problem in problems:
            where, _, message = problem.partition(": ")
            check.add("unusable record", split, where, message)
        for video in videos:
            # By its path: sources have folders of their own, where names may be alike.
            found = check.videos[split].setdefault(str(video.path), Video(video.source))
            for question in video.questions:
                if question.task is not None:
                    found.answers[question.task] = question.answer
                    found.truth[question.task] = TASKS[question.task].ground_truth(question.answer)
                    check.records[split, question.task] += 1
