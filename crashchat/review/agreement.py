"""How far reviewers agree, and what the random share says of the whole fleet and of the model."""

from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median

from crashchat.analysis.results import ClipResult
from crashchat.data.predictions import make_record
from crashchat.metrics.bootstrap import wilson
from crashchat.metrics.localization import interval_sums
from crashchat.metrics.recognition import recognition_sums
from crashchat.review.labels import UNSURE, UNUSABLE, Labels, model_labels
from crashchat.review.standing import Decision, Standing
from crashchat.review.store import ClipRow
from crashchat.tasks import CRASHCHAT
from crashchat.tasks.reading import read_label
from crashchat.tasks.task import CRASH, CRASH_INTERVAL

TIMES = ("start", "end", "first_sign")
# What people label is what these two ask for; their records are what the figures are made of.
RECOGNITION, LOCALIZATION = (
    next(task for task in CRASHCHAT.values() if task.fact == fact) for fact in (CRASH, CRASH_INTERVAL)
)


def cohen_kappa(pairs: list[tuple[str, str]]) -> float | None:
    """Agreement of two people beyond chance, from what each said of the same clips: 1 in everything, 0 as
    chance would have it; None without clips, and where both say always the same one thing.

    Cohen, A coefficient of agreement for nominal scales, 1960.
    """
    if not pairs:
        return None
    said = {word for pair in pairs for word in pair}
    same = sum(one == other for one, other in pairs) / len(pairs)
    chance = (
        sum(sum(one == word for one, _ in pairs) * sum(other == word for _, other in pairs) for word in said)
        / len(pairs) ** 2
    )
    return None if chance == 1 else (same - chance) / (1 - chance)


def said(decision: Decision) -> str:
    """What a decision says of its clip, in a word."""
    if not decision.labelled:
        return decision.verdict
    return "crash" if decision.after.crash else "no crash"


@dataclass
class Agreement:
    """Two people on the clips that both decided on, what a lead settled aside.

    clips: how many neither was unsure about; same: those of which both say crash, no crash or unusable.
    kappa: of the same. differences: {time: the median of how far theirs are apart, seconds}, of those that
    both give. unsure: clips that one or both were unsure about.
    """

    one: str
    other: str
    clips: int
    same: int
    kappa: float | None
    differences: dict[str, float]
    unsure: int


def agreements(standings: dict[str, Standing]) -> list[Agreement]:
    """Of every two people who decided on the same clips."""
    shared: dict[tuple[str, str], list[tuple[Decision, Decision]]] = {}
    for standing in standings.values():
        for one, other in combinations(sorted(standing.opinions), 2):
            pair = (standing.opinions[one], standing.opinions[other])
            shared.setdefault((one, other), []).append(pair)
    found = []
    for (one, other), both in sorted(shared.items()):
        sure = [pair for pair in both if UNSURE not in (pair[0].verdict, pair[1].verdict)]
        words = [(said(mine), said(theirs)) for mine, theirs in sure]
        differences = {}
        for time in TIMES:
            apart = [
                abs(a - b)
                for mine, theirs in sure
                if mine.labelled and theirs.labelled
                if (a := getattr(mine.after, time)) is not None
                and (b := getattr(theirs.after, time)) is not None
            ]
            if apart:
                differences[time] = round(median(apart), 3)
        found.append(
            Agreement(
                one,
                other,
                clips=len(sure),
                same=sum(a == b for a, b in words),
                kappa=cohen_kappa(words),
                differences=differences,
                unsure=len(both) - len(sure),
            )
        )
    return found


@dataclass
class Share:
    """A share with Wilson's 95% interval; None where there is nothing to take it of."""

    value: float | None
    low: float | None
    high: float | None
    hits: int
    number: int


def share_of(hits: int, number: int) -> Share:
    """`hits` of `number`."""
    if not number:
        return Share(None, None, None, hits=hits, number=number)
    low, high = wilson(hits / number, number)
    return Share(hits / number, float(low), float(high), hits=hits, number=number)


@dataclass
class Fleet:
    """What the random share says of the fleet.

    clips: of the random share. decided: of these, where what counts says crash or no crash. open: nobody
    decided, or people disagree. left_out: unsure or unusable. crash_rate: how many clips show a crash.
    precision, recall: of the model as deployed, no answer counting as a wrong one. crash_mIoU: of its
    intervals where a person gave one.
    """

    clips: int
    decided: int
    open: int
    left_out: int
    crash_rate: Share
    precision: Share
    recall: Share
    crash_mIoU: float | None

    def as_json(self) -> dict:
        """The same as JSON values."""
        return asdict(self)


def deployed_answer(result: ClipResult) -> str:
    """The model's answer to recognition: 'Yes' where any window's is, '' where no window has one."""
    labels = {
        read_label(answer.raw_response)
        for window in result.windows
        for answer in window.answers
        if answer.task == RECOGNITION.name
    }
    return next((label for label in ("Yes", "No") if label in labels), "")


def fleet(results: dict[str, ClipResult], rows: dict[str, ClipRow], standings: dict[str, Standing]) -> Fleet:
    """The fleet's figures from the decided clips of the random share."""
    drawn = [result for name, result in results.items() if rows[name].random]
    finals = [(result, standings.get(result.name, Standing()).final) for result in drawn]
    decided = [(result, final.after) for result, final in finals if final and final.labelled]
    found = recognition_sums([_recognition(*pair) for pair in decided]).metrics()
    times = [_localization(*pair) for pair in decided if pair[1].start is not None]
    crashes = sum(bool(labels.crash) for _, labels in decided)
    hits, missed, false = (int(found[name]) for name in ("TP", "FN", "FP"))
    return Fleet(
        clips=len(drawn),
        decided=len(decided),
        open=sum(final is None for _, final in finals),
        left_out=sum(final is not None and final.verdict in (UNSURE, UNUSABLE) for _, final in finals),
        crash_rate=share_of(crashes, len(decided)),
        precision=share_of(hits, hits + false),
        recall=share_of(hits, hits + missed),
        crash_mIoU=interval_sums(times).metrics()["mIoU"] if times else None,
    )


def _recognition(result: ClipResult, labels: Labels) -> dict:
    return make_record(
        RECOGNITION,
        data_id=0,
        video_path=f"videos/{result.name}",
        prompt=RECOGNITION.prompt or "",
        raw_response=deployed_answer(result),
        answer="Yes" if labels.crash else "No",
        crash_probability=result.crash_probability,
    )


def _localization(result: ClipResult, labels: Labels) -> dict:
    model = model_labels(result)
    return make_record(
        LOCALIZATION,
        data_id=0,
        video_path=f"videos/{result.name}",
        prompt=LOCALIZATION.prompt or "",
        raw_response="" if model.start is None else f"{model.start} - {model.end} seconds",
        answer=f"{labels.start} - {labels.end} seconds",
    )


def fleet_lines(estimate: Fleet) -> list[str]:
    """The fleet's figures in words."""
    lines = [f"random share: {estimate.decided} of {estimate.clips} clips decided"]
    for name in ("crash_rate", "precision", "recall"):
        share: Share = getattr(estimate, name)
        if share.value is not None:
            lines.append(
                f"  {name.replace('_', ' ')} {share.value:.3f}, 95% interval {share.low:.3f} to "
                f"{share.high:.3f} ({share.hits} of {share.number})"
            )
    if estimate.crash_mIoU is not None:
        lines.append(f"  crash mIoU {estimate.crash_mIoU:.3f}")
    return lines
