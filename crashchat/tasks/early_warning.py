"""Warnings before a crash: whether one begins soon, asked again and again of what was seen so far.

    clip      0 s ──────────────────────────────────── crash begins ── …
    windows        [──────────] No
                        [──────────] No
                             [──────────] No
                                  [──────────] Yes    `horizon` or less from its end to the crash
                                       [──────────] Yes

A window is a part of the clip (crashchat/parts.py), so the model cannot see what comes behind its end: the
protocol is causal by construction. None ends at or after the crash's beginning. The windows of a crash are
counted back from it, so that some end exactly so many seconds before it as figures are taken at (metrics/
early_warning.py); those of other clips are counted back from the clip's end.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from crashchat.errors import abbreviate
from crashchat.tasks.kinds import Kind, Option, Value
from crashchat.tasks.reading import plain, read_label

NO_REASON = "none"  # in the records of an answer that warns of nothing
_SLACK = 1e-6  # seconds; times are decimals, and sums of them are off by a rounding error


class EarlyWarning(Kind):
    """Yes or No to whether a crash begins soon, a Yes with what it will be where `reasons` lists that: 'No',
    'Yes, rear-end'.
    """

    kind: Literal["early_warning"]
    before: str
    """The task whose answers say when the crash begins: its interval, or the moment itself."""
    horizon: float = Field(default=1.5, gt=0, le=60)
    """Seconds: the answer is Yes where a crash begins within so many of what was last seen."""
    window: float = Field(default=2.5, gt=0, le=600)
    """Seconds that are seen at a time."""
    every: float = Field(default=0.5, gt=0, le=60)
    """Seconds from one window of a clip to the next."""
    lead_times: list[Annotated[float, Field(gt=0)]] = Field(
        default_factory=lambda: [0.5, 1.0, 1.5], min_length=1, max_length=10
    )
    """Seconds before the crash at which average precision is taken."""
    reasons: list[Option] = Field(default_factory=list, max_length=200)
    """What the crash may be, of which a Yes names one; none: a Yes stands alone."""
    reason_from: str | None = None
    """The choice whose annotated answer is the reason, for `crashchat cut-warnings`."""

    @model_validator(mode="after")
    def _consistent(self):
        known = [plain(reason) for reason in self.reasons]
        if len(set(known)) < len(known) or "" in known or plain(NO_REASON) in known:
            raise ValueError(
                f"reasons: found {abbreviate(self.reasons)}, expected reasons that differ in more than case "
                f"and stops, none of them empty or {NO_REASON!r}"
            )
        if self.reasons and self.reason_from is None:
            raise ValueError("reasons: need reason_from, the choice that says which is true of a clip")
        if self.reason_from is not None and not self.reasons:
            raise ValueError("reason_from: needs reasons, the answers that it may give")
        far = [lead for lead in self.lead_times if not _is_multiple(lead, self.every)]
        if far:
            raise ValueError(
                f"lead_times: found {far[0]:g}, expected multiples of every={self.every:g}, so that a window "
                "ends there"
            )
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        return ("label", "reason") if self.reasons else ("label",)

    @property
    def candidates(self) -> tuple[str, ...]:
        return ("No", *(self._yes(reason) for reason in self.reasons)) if self.reasons else ("Yes", "No")

    @staticmethod
    def _yes(reason: str) -> str:
        return f"Yes, {reason}"

    def parse(self, text: str) -> dict[str, Value] | None:
        label = read_label(text)
        if label is None or not self.reasons:
            return None if label is None else {"label": label}
        if label == "No":
            return {"label": label, "reason": NO_REASON}
        _, _, said = text.partition(",")
        reason = {plain(reason): reason for reason in self.reasons}.get(plain(said))
        return {"label": label, "reason": reason} if reason else None

    def write(self, value: Value) -> str:
        label, reason = (*value, NO_REASON)[:2] if isinstance(value, list) else (value, NO_REASON)
        return self._yes(reason) if label == "Yes" and self.reasons else str(label)

    def windows(self, seconds: float, crash_start: float | None) -> Iterator[tuple[float, float]]:
        """(start, end) of each window of a clip of `seconds`, in order; none where it is too short.

        crash_start: where its crash begins, in seconds; None where it has none.
        """
        last = seconds if crash_start is None else min(crash_start - self.every, seconds)
        count = math.floor((last - self.window) / self.every + _SLACK) + 1
        for back in reversed(range(max(count, 0))):
            end = round(last - back * self.every, 3)
            yield max(round(end - self.window, 3), 0.0), end

    def answer_at(self, end: float, crash_start: float | None, reason: str | None = None) -> str:
        """The true answer to a window that ends at `end`, of a crash as `windows` has it."""
        soon = crash_start is not None and crash_start - end <= self.horizon + _SLACK
        return self.write(["Yes" if soon else "No", reason])


def _is_multiple(value: float, step: float) -> bool:
    return abs(value / step - round(value / step)) < _SLACK
