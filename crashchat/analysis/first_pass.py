"""A cheap first pass over a long recording: where nothing points to a crash, nothing else is asked.

stretches   [──── .01 ────][──── .00 ────][──── .40 ────]   few frames, whether there is a crash alone
windows     [─── 0 ───]       [─── 2 ───]       [─── 4 ───]
                  [─── 1 ───]       [─── 3 ───]
below .05   0, 1 and 2 are passed over; 3 and 4 touch a stretch that may show one and are looked at
"""

from collections.abc import Mapping
from dataclasses import replace

from crashchat.analysis.reading import read_ahead, spans_of
from crashchat.analysis.results import NO_CRASH, Window
from crashchat.analysis.watched import Watched
from crashchat.analysis.windows import FirstPassSettings
from crashchat.answering.answerer import in_batches, tokens_at_once
from crashchat.answering.engines import VideoContext
from crashchat.video.tokens import VisualTokens

Span = tuple[float, float]


class FirstPass:
    """How likely a crash is on the stretches of one recording, each of which is read once.

    stretches: (start, end) in seconds, one behind the other.
    """

    def __init__(self, clip: Watched, settings: FirstPassSettings):
        self.clip, self.settings = clip, settings
        self.stretches = spans_of(clip.source, replace(clip.windows, stride=clip.windows.length))
        self.probabilities: dict[int, float | None] = {}

    def pass_over(self, spans: Mapping[int, Span]) -> dict[int, Window]:
        """Those windows, by their numbers, all of whose stretches are less likely than settings.below to show
        a crash. One with a stretch that cannot be read is not among them.
        """
        of_window = {number: self._below(span) for number, span in spans.items()}
        self._ask(sorted({stretch for below in of_window.values() for stretch in below}))
        passed: dict[int, Window] = {}
        for number, below in of_window.items():
            found = [self.probabilities[stretch] for stretch in below]
            likely = [probability for probability in found if probability is not None]
            if found and len(likely) == len(found) and max(likely) < self.settings.below:
                start, end = spans[number]
                passed[number] = Window(
                    start=start,
                    end=end,
                    status=NO_CRASH,
                    crash_probability=round(max(likely), 6),
                    passed_over=True,
                )
        return passed

    def _below(self, span: Span) -> list[int]:
        """The stretches that a window touches."""
        start, end = span
        return [number for number, (first, last) in enumerate(self.stretches) if first < end and start < last]

    def _ask(self, numbers: list[int]) -> None:
        """Find out how likely a crash is on some stretches, where that is not known."""
        clip, answerer = self.clip, self.clip.cascade.answerer
        left = [number for number in numbers if number not in self.probabilities]
        settings = replace(answerer.settings, fps=self.settings.fps)
        stretches = read_ahead(clip.path, clip.source, spans=self.stretches, numbers=left, settings=settings)
        for together in in_batches(stretches, tokens_at_once(answerer.device)):
            self.probabilities |= dict.fromkeys(number for number, _ in together)
            readable = {number: visual for number, visual in together if isinstance(visual, VisualTokens)}
            if readable:
                context = VideoContext(list(readable.values()))
                found = clip.cascade.crash_probabilities(context, clip.known)
                self.probabilities |= dict(zip(readable, found, strict=True))
