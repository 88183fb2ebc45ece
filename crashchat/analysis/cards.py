"""What was found, to look at: a card a clip, and the page of all cards.

A card for another page holds its film strips; the page of a folder links to those that lie beside it, and a
browser fetches them as they come into view. Videos are linked in both.
"""

from dataclasses import dataclass

from crashchat.analysis.results import (
    ANSWERED,
    CONTRADICTION,
    CRASH,
    FAILED,
    NO_CRASH,
    UNDECIDED,
    ClipResult,
    Event,
    ModelIdentity,
)
from crashchat.html import TEMPLATES, data_uri, link
from crashchat.tasks import TASKS
from crashchat.tasks.quantities import Timed

PAGE = 50  # cards that the page shows at a time
STATUSES = (CRASH, CONTRADICTION, NO_CRASH, UNDECIDED, ANSWERED, FAILED)


@dataclass
class Figure:
    """A film strip above its time axis.

    strip: its address, or None. start, end: seconds of the axis. event: what is marked on it.
    """

    strip: str | None
    start: float
    end: float
    event: Event | None


def clock(seconds: float, precise: bool = True) -> str:
    """Seconds as people read them: `3.2 s`, from a minute on `12:03.2`, from an hour on `1:12:03.2`."""
    seconds = round(seconds, 1)
    if seconds < 60:
        return f"{seconds:.1f} s" if precise else f"{seconds:.0f} s"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    tail = f"{rest:04.1f}" if precise else f"{rest:02.0f}"
    return f"{hours:.0f}:{minutes:02.0f}:{tail}" if hours else f"{minutes:.0f}:{tail}"


def ticks(start: float, end: float) -> list[float]:
    """About six round times on an axis, in seconds."""
    steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400]
    longest = -(-(end - start) // (9 * steps[-1])) * steps[-1]
    step = next((step for step in steps if (end - start) / step <= 9), longest)
    first = -(-start // step)
    return [round(number * step, 3) for number in range(int(first), int(end / step + 1e-6) + 1)]


def figures(result: ClipResult, images: list[str | None]) -> list[Figure]:
    """A clip's one figure, or one for each event of a recording. images: their strips' addresses."""
    if result.is_recording:
        return [
            Figure(image, event.shown[0], event.shown[1], event)
            for image, event in zip(images, result.events, strict=True)
        ]
    event = result.events[0] if result.events else None
    return [Figure(image, 0.0, result.seconds or 0.0, event) for image in images]


def curve(result: ClipResult) -> str:
    """A recording's probability of a crash over time as an SVG path in a box of 1000 by 40: a step a window,
    as high as its middle third is sure; empty where no window has one.
    """
    length = result.seconds or 0.0
    known = [window for window in result.windows if window.crash_probability is not None]
    if not length or not known:
        return ""
    points = []
    for window in known:
        height = 40 - 40 * (window.crash_probability or 0.0)
        points.append(f"{1000 * (window.start + window.end) / 2 / length:.1f} {height:.1f}")
    return "M" + " L".join(points)


def sureness(result: ClipResult) -> float:
    """How far the least sure window's probability is from one half, 0 to 0.5; -1 where nothing is known."""
    known = [w.crash_probability for w in result.windows if w.crash_probability is not None]
    return min((abs(probability - 0.5) for probability in known), default=-1.0)


def _values(result: ClipResult, images: list[str | None], video: str | None) -> dict:
    """What card.html is given. images, video: addresses, as they stand in the page."""
    first = result.windows[0] if len(result.windows) == 1 else None
    shown = [name for name in TASKS if name not in TASKS.task_set.of_kind(Timed)]  # times are on the strip
    said = {answer.task: answer.raw_response for answer in first.answers} if first else {}
    notes = [note for window in result.windows for note in window.notes] if first else []
    lost = [window for window in result.windows if window.error]
    contradicting = [window for window in result.windows if window.status == CONTRADICTION]
    return {
        "result": result,
        "figures": figures(result, images),
        "curve": curve(result) if result.is_recording else "",
        "sureness": sureness(result),
        "video": video,
        "texts": [(TASKS[name].title, said[name]) for name in shown if said.get(name)],
        "notes": notes,
        "lost": lost,
        "passed_over": sum(window.passed_over for window in result.windows),
        "contradicting": contradicting if result.is_recording else [],
        "clock": clock,
        "ticks": ticks,
    }


def card_html(result: ClipResult, strips: list[bytes | None], video: str | None) -> str:
    """One card, with its style and its film strips, for a page of other making."""
    images = [data_uri(strip, "image/jpeg") if strip else None for strip in strips]
    return TEMPLATES.get_template("card.html").render(**_values(result, images, video), with_style=True)


def banner_html(warnings: list[str], model: ModelIdentity) -> str:
    """What nobody must overlook of the model, and what each part of it learnt on, with its style."""
    return TEMPLATES.get_template("banner.html").render(warnings=warnings, model=model)


def page_html(analyses: list[tuple[ClipResult, list[str | None]]], links: dict[str, str]) -> str:
    """The folder's report.

    analyses: (result, the film strips' files, seen from the page's folder). links: {result's name: the
    video's path, seen from there}.
    """
    template = TEMPLATES.get_template("card.html")
    cards = []
    for result, strips in analyses:
        images = [link(strip) if strip else None for strip in strips]
        video = link(links[result.name]) if result.status != FAILED else None
        cards.append(template.render(**_values(result, images, video), with_style=False))
    counts = {status: sum(result.status == status for result, _ in analyses) for status in STATUSES}
    return TEMPLATES.get_template("analysis.html").render(
        cards=cards,
        counts={status: count for status, count in counts.items() if count},
        page=PAGE,
        unlike=sum(bool(result.unlike_training) for result, _ in analyses),
        banner=banner_html(analyses[0][0].warnings, analyses[0][0].model),
    )
