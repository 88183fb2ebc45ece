"""Warnings before a crash: in time, how early, how many false ones, and for the right reason.

A clip's windows (crashchat/tasks/early_warning.py) are one row here, because they stand and fall together.
Figures that go over thresholds take them from a fixed grid of log-odds, so that every one is a function of
column totals as all others are (sums.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from crashchat.data.predictions import clip_name, video_name
from crashchat.data.record_faults import is_number
from crashchat.metrics.sums import Sums, Totals, ratio, sums
from crashchat.parts import span_of
from crashchat.tasks.early_warning import EarlyWarning

# Probabilities from which a window is an alarm, ascending: 0 (always), then 0.2 of log-odds apart, 0.00005 to
# 0.99995.
THRESHOLDS = np.array([0.0, *(1 / (1 + np.exp(-np.linspace(-10, 10, 101))))])
RECALL = 0.8  # share of the crashes that are warned of, at which times and false alarms are compared
TIME_TO_ACCIDENT, FALSE_ALARMS = "TTA@R80", "alarms/h@R80"  # the figures there
_SLACK = 1e-6


@dataclass(frozen=True)
class _Window:
    """end: seconds in the clip. probability: of a crash soon. soon: whether that is true. warned: whether
    the answer says so. right: whether the answer is the true one, its reason included.
    """

    end: float
    probability: float
    soon: bool
    warned: bool
    right: bool


def early_warning_sums(
    records: list[dict], kind: EarlyWarning, crash_starts: dict[str, float] | None = None
) -> Sums:
    """Answers to a clip's windows, a row a clip (docs/reference.md, Metrics).

    crash_starts: {clip: seconds at which its crash begins}, for records that carry no `crash_start`.
    AP@Xs: average precision of the windows that end X seconds before a crash against those of clips without
    one, each clip counted once; mAP their mean. TTA@R80: mean seconds from the first alarm to the crash, at
    the strictest threshold that warns of RECALL of the crashes; alarms/h@R80: alarms in an hour of the clips
    without a crash, there; neither where no threshold warns of so many. right_time: share of crashes whose
    first Yes comes within the horizon, neither earlier nor never; joint: and names the right reason. An
    answer that does not parse is no Yes; without a probability, an answer counts as 1 or 0.
    Left out, and counted: num_no_part (records that are about no part of a clip), missing_video_count (whose
    truth is Yes, and the crash's start not known).
    """
    counts = {"num_records": len(records), "num_unparsed": 0, "num_failed": 0, "num_no_truth": 0}
    counts |= {"num_no_part": 0, "missing_video_count": 0, "num_without_probability": 0}
    clips: dict[str, list[_Window]] = {}
    starts: dict[str, float] = {}
    faulty: set[str] = set()
    for record in records:
        clip, span = clip_name(record["video_path"]), span_of(video_name(record["video_path"]))
        start = record.get("crash_start")
        start = (crash_starts or {}).get(clip) if start is None else start
        if record["gt_label"] not in ("Yes", "No"):
            counts["num_no_truth"] += 1
        elif span is None:
            counts["num_no_part"] += 1
        elif start is None and record["gt_label"] == "Yes":
            counts["missing_video_count"] += 1
        else:
            if start is not None:
                starts[clip] = start
            answered = record.get("error") is None and record["pred_label"] in ("Yes", "No")
            if not answered:
                counts["num_unparsed" if record.get("error") is None else "num_failed"] += 1
                faulty.add(clip)
            warned = answered and record["pred_label"] == "Yes"
            probability = record.get("crash_probability")
            counts["num_without_probability"] += not is_number(probability)
            clips.setdefault(clip, []).append(
                _Window(
                    end=span[1],
                    probability=probability if is_number(probability) else float(warned),
                    soon=record["gt_label"] == "Yes",
                    warned=warned,
                    right=all(record[f"gt_{field}"] == record[f"pred_{field}"] for field in kind.fields),
                )
            )
    questions = []
    for clip, windows in clips.items():
        windows.sort(key=lambda window: window.end)
        columns = (
            _crash_columns(windows, kind, starts[clip]) if clip in starts else _safe_columns(windows, kind)
        )
        questions.append({"video": clip, "answered": clip not in faulty, **_columns(kind), **columns})
    figures = _Figures(kind)
    shares = ("right_time", "joint") if kind.reasons else ("right_time",)
    return sums(
        questions,
        figures,
        counts,
        counted={
            **{f"AP@{lead:g}s": ((f"near {lead:g}",), ("safe_count",)) for lead in kind.lead_times},
            "mAP": (("crash_count",), ("safe_count",)),
            **dict.fromkeys(shares, (("crash_count",),)),
        },
        shares=shares,
        tallies=("crash_count", "safe_count", "windows_count"),
        empty=tuple(_columns(kind)),
    )


def _over(kind: EarlyWarning) -> list[str]:
    """The columns of which there is one a threshold."""
    return [*(f"hit {lead:g}" for lead in kind.lead_times), "false", "warned", "lead", "alarms"]


def _columns(kind: EarlyWarning) -> dict[str, float]:
    """Every column of a row, as 0."""
    near = [f"near {lead:g}" for lead in kind.lead_times]
    once = ("crash_count", "safe_count", "windows_count", "hours", "right_time", "joint", "score", *near)
    places = range(len(THRESHOLDS))
    return dict.fromkeys((*once, *(f"{name} {at}" for name in _over(kind) for at in places)), 0.0)


def _by_threshold(name: str, values: Iterable[float]) -> dict[str, float]:
    return {f"{name} {at}": float(value) for at, value in enumerate(values)}


def _alarms(windows: list[_Window]) -> np.ndarray:
    """bool[windows, thresholds]"""
    return np.array([window.probability for window in windows])[:, None] >= THRESHOLDS


def _crash_columns(windows: list[_Window], kind: EarlyWarning, start: float) -> dict[str, float]:
    alarms, ends = _alarms(windows), np.array([window.end for window in windows])
    found = {"crash_count": 1.0, "windows_count": float(len(windows))}
    for lead in kind.lead_times:
        there = np.flatnonzero(np.abs(start - ends - lead) < kind.every / 2 - _SLACK)
        if len(there):
            found[f"near {lead:g}"] = 1.0
            found |= _by_threshold(f"hit {lead:g}", alarms[there[0]])
    warned = alarms.max(axis=0)
    found |= _by_threshold("warned", warned)
    found |= _by_threshold("lead", np.where(warned, start - ends[alarms.argmax(axis=0)], 0.0))
    first = next((window for window in windows if window.warned), None)
    if first is not None and first.soon:
        found |= {"right_time": 1.0, "joint": float(first.right), "score": 1.0}
    return found


def _safe_columns(windows: list[_Window], kind: EarlyWarning) -> dict[str, float]:
    alarms = _alarms(windows)
    # Windows in a row are one alarm.
    begun = np.vstack([alarms[:1], alarms[1:] & ~alarms[:-1]]).sum(axis=0)
    return {
        "safe_count": 1.0,
        "windows_count": float(len(windows)),
        "hours": len(windows) * kind.every / 3600,
        "score": float(not any(window.warned for window in windows)),
        **_by_threshold("false", alarms.mean(axis=0)),
        **_by_threshold("alarms", begun),
    }


@dataclass(frozen=True)
class _Figures:
    """Column totals -> figures."""

    kind: EarlyWarning

    def __call__(self, totals: Totals) -> dict[str, np.ndarray]:
        over = {
            name: np.stack([np.asarray(totals[f"{name} {at}"]) for at in range(len(THRESHOLDS))], axis=-1)
            for name in _over(self.kind)
        }
        crashes, found = np.asarray(totals["crash_count"]), {}
        for lead in self.kind.lead_times:
            found[f"AP@{lead:g}s"] = np.where(
                np.asarray(totals["safe_count"]) > 0,
                _average_precision(
                    over[f"hit {lead:g}"], over["false"], np.asarray(totals[f"near {lead:g}"])
                ),
                np.nan,
            )
        found["mAP"] = np.mean(list(found.values()), axis=0)
        # The strictest threshold that warns of enough crashes; recall only falls as thresholds rise.
        enough = ratio(over["warned"], crashes[..., None], empty=0.0) >= RECALL - _SLACK
        place = np.maximum(enough.sum(axis=-1) - 1, 0)[..., None]
        reached = enough.any(axis=-1)

        def there(name: str) -> np.ndarray:
            return np.take_along_axis(over[name], place, axis=-1)[..., 0]

        found[TIME_TO_ACCIDENT] = np.where(reached, ratio(there("lead"), there("warned")), np.nan)
        found[FALSE_ALARMS] = np.where(reached, ratio(there("alarms"), totals["hours"]), np.nan)
        found["right_time"] = ratio(totals["right_time"], crashes)
        if self.kind.reasons:
            found["joint"] = ratio(totals["joint"], crashes)
        return found


def _average_precision(hits: np.ndarray, false: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """hits, false: float64[…, thresholds], the sums over positives and negatives that reach each threshold,
    ascending; positives: float64[…]. NaN where there are none.
    """
    recall = ratio(hits, positives[..., None])
    stricter = np.concatenate([recall[..., 1:], np.zeros_like(recall[..., :1])], axis=-1)
    return ((recall - stricter) * ratio(hits, hits + false, empty=0.0)).sum(axis=-1)
