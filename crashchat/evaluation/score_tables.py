"""Scores as terminal tables."""

from pathlib import Path

from crashchat.metrics.bootstrap import Difference
from crashchat.metrics.localization import PARSED_ONLY
from crashchat.metrics.sums import PROTOCOLS, format_value, is_count


def score_table(scored: dict, protocol: str = "strict") -> str:
    """What `scores` gave as a terminal table: what was counted,
    then a line a metric with interval and other protocol.
    """
    (other,) = set(PROTOCOLS) - {protocol}
    figures = {name: value for name, value in scored.items() if not isinstance(value, dict | str)}
    width = max(map(len, figures))
    counts = [name for name in figures if is_count(name)]
    lines = [f"{name:{width}}  {figures[name]:>12}" for name in counts]
    lines += ["", f"{'metric':{width}}  {protocol:>12}  {'95% interval':>16}  {other:>12}"]
    for name, value in figures.items():
        if name not in counts:
            note = f"  ({parsed_note(scored)})" if name in PARSED_ONLY and value is not None else ""
            low, high = scored["intervals"].get(name, (None, None))
            interval = "" if low is None or isinstance(value, int) else f"{low:.4f} – {high:.4f}"
            lines.append(
                f"{name:{width}}  {format_value(value, 4):>12}  {interval:>16}  "
                f"{format_value(scored[other][name], 4):>12}{note}"
            )
    for truth, row in scored.get("confusion", {}).items():
        lines.append(
            f"truth {truth}: answered " + ", ".join(f"{answer} {count}" for answer, count in row.items())
        )
    return "\n".join(lines)


def parsed_note(scored: dict) -> str:
    """Of how many questions a figure is that only answers which parse have."""
    asked = scored["num_scored"] + scored["num_unparsed"] + scored["num_failed"]
    return f"of {scored['num_scored']} of {asked} answers, those that parse"


def difference_table(differences: dict[str, Difference], other: Path) -> str:
    """The paired bootstrap as a terminal table."""
    width = max(map(len, differences), default=6)
    lines = [
        f"difference to {other}, same videos drawn for both; p corrected by Holm for these "
        f"{len(differences)} tests;",
        "'can show': the smallest true difference that such a test set shows four times in five",
        "",
        f"{'metric':{width}}  {'difference':>10}  {'95% interval':>18}  {'p':>10}  {'can show':>8}",
    ]
    for name, found in differences.items():
        can_show = "—" if found.detectable is None else f"{found.detectable:.4f}"
        over = f"  (over the {found.over} videos that both answered)" if found.over is not None else ""
        lines.append(
            f"{name:{width}}  {found.value:>+10.4f}  {f'{found.low:+.4f} – {found.high:+.4f}':>18}  "
            f"{found.p_text.removeprefix('p '):>10}  {can_show:>8}{over}"
        )
    return "\n".join(lines)
