"""A plan as a page of text."""

from crashchat.training.planning.gpus import GIB, RESERVED_GIB
from crashchat.training.planning.ledger import LANGUAGE
from crashchat.training.planning.making import Plan, tokens_of

BALANCED = 0.95  # share of the time at work from which nothing is said of it
WORK = {
    "vision": "vision encoder",
    "forward": "language model forward",
    "recomputed": "the same again (gradient checkpointing)",
    "backward": "language model backward",
    "trained": "LoRA and projector",
    "drawing": "drawing answers",
    "start": "the model as it was at the start",
}


def plan_text(plan: Plan) -> str:
    """All of it, in lines."""
    return "\n\n".join(
        "\n".join(lines)
        for lines in (_assumed(plan), _memory(plan), _operations(plan), _time(plan), _fits(plan))
    )


def _assumed(plan: Plan) -> list[str]:
    share = plan.rate / (plan.gpu.tflops * 1e12)
    where = f"{plan.gpus} x {plan.gpu.name}" + (f" in each of {plan.nodes} nodes" if plan.nodes > 1 else "")
    return [
        f"{where}; assumed:",
        f"  model    {plan.base}",
        f"  lengths  {'; '.join(plan.sources)}",
        f"  rate     {plan.rate / 1e12:.0f} TFLOP/s a GPU, {share:.0%} of its peak (--tflops)",
        f"  price    {plan.price:.2f} $ a GPU-hour (--price)",
    ]


def _memory(plan: Plan) -> list[str]:
    questions = sum(len(video.questions) for video in plan.longest)
    what = f"{len(plan.longest)} video(s), {questions} question(s), {tokens_of(plan.longest):,} tokens"
    with_, without = (
        (plan.memory, plan.other_memory) if plan.checkpointing else (plan.other_memory, plan.memory)
    )
    spare = (plan.room - max(plan.memory.peak, plan.validation_peak)) / GIB
    lines = [
        f"memory of a GPU in GiB; the longest pass: {what}",
        f"  {'':42}{'at the peak':>11}  {'at most':>7}",
    ]
    for part, largest in plan.memory.largest.items():
        name = part
        if part == LANGUAGE:
            lines += [
                f"  {f'{part}, {how} gradient checkpointing':42}{at:>11}  {memory.largest[part] / GIB:7.1f}"
                for how, memory, at in (
                    ("with", with_, _at(plan, True)),
                    ("without", without, _at(plan, False)),
                )
            ]
            continue
        if largest:
            lines.append(f"  {name:42}{plan.memory.at_peak[part] / GIB:11.1f}  {largest / GIB:7.1f}")
    fits = f"fits, {spare:.1f} to spare" if spare >= 0 else f"does not fit: {-spare:.1f} too much"
    lines += [
        f"  {'peak':42}{plan.memory.peak / GIB:11.1f}",
        f"  {_other(plan):42}{plan.other_memory.peak / GIB:11.1f}",
        f"  {'peak in validation':42}{plan.validation_peak / GIB:11.1f}",
        f"  the card has {plan.gpu.gib:.1f}, of which {RESERVED_GIB} are left to CUDA, NCCL and gaps: {fits}",
    ]
    return lines


def _at(plan: Plan, checkpointing: bool) -> str:
    if checkpointing != plan.checkpointing:
        return "-"
    return f"{plan.memory.at_peak[LANGUAGE] / GIB:.1f}"


def _other(plan: Plan) -> str:
    return f"peak with{'out' if plan.checkpointing else ''} gradient checkpointing"


def _operations(plan: Plan) -> list[str]:
    total = plan.step.operations.total
    lines = [f"operations of a step in 10^12, all GPUs ({plan.step.videos:.1f} videos in the mean)"]
    for part, count in plan.step.operations.parts().items():
        if count:
            lines.append(f"  {WORK[part]:42}{count / 1e12:11,.0f}  {count / total:7.0%}")
    lines.append(f"  {'all':42}{total / 1e12:11,.0f}")
    if plan.busy < BALANCED:
        lines.append(
            f"  GPUs at work: {plan.busy:.0%} of the time, as the slowest has more videos than others"
        )
    return lines


def _time(plan: Plan) -> list[str]:
    step = plan.step
    counted = f"{plan.videos:,} videos, {plan.questions:,} questions; {plan.steps_an_epoch:,} steps an epoch"
    lines = [f"time and cost ({counted})", f"  {'':42}{'time':>11}  {'$':>9}"]
    names = {"step": "a step", "epoch": "an epoch", "run": f"the run, {plan.steps:,} steps"}
    for what, name in names.items():
        lines.append(f"  {name:42}{_span(plan.seconds[what]):>11}  {_dollars(plan.dollars[what]):>9}")
    lines += [
        f"  a step: computing {step.computing:.2f} s, exchanging {step.exchanging:.2f} s, reading videos "
        f"{step.reading:.2f} s meanwhile",
        *(
            [f"  of computing, drawing waits {step.waiting:.2f} s for weights, a token at a time"]
            if step.waiting
            else []
        ),
        f"  {plan.validations:,} validations of {_span(plan.validation)} are in it; early stopping is not",
    ]
    if plan.waits_for_reading:
        lines.append(
            "  the GPUs wait for videos: raise num_workers, or keep features with feature_cache=FOLDER"
        )
    return lines


def _fits(plan: Plan) -> list[str]:
    lines = ["what fits (settings that change less of what is learnt come first)"]
    for fit in plan.fits:
        if fit.settings is None or fit.gib is None:
            lines.append(f"  {fit.gpu:20}           no setting that would do is known")
        else:
            how = " ".join(fit.settings) or "as it is"
            lines.append(f"  {fit.gpu:20}{fit.gib:6.1f} GiB  {how}")
    return lines


def _dollars(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.4f}" if amount < 1 else f"{amount:.2f}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
