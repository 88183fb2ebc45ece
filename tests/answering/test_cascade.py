"""The cascade: who is asked what, how often the video is read, and answers that are each adapter's own."""

import shutil
from contextlib import contextmanager

import pytest
import torch

from crashchat.analysis.results import (
    CONTRADICTION,
    CRASH,
    FAILED,
    NO_CRASH,
    UNDECIDED,
    Interval,
    Window,
)
from crashchat.analysis.windows import (
    WindowError,
    WindowSettings,
    failed_window,
    find_events,
    plan,
    status_of,
    window_of,
)
from crashchat.answering.cascade import LINGUISTIC, PERCEPTION, Cascade
from crashchat.answering.engines import BASE, VideoContext
from crashchat.answering.generate import answer_questions, decode
from crashchat.answering.loading import load_cascade
from crashchat.answering.outputs import Answer, CascadeOutput
from crashchat.checkpoints.adapters import load_adapter
from crashchat.checkpoints.folders import load_model
from crashchat.checkpoints.layouts import CheckpointError
from crashchat.provenance import content_hash
from crashchat.tasks import TASKS
from crashchat.video.decode import Clip
from crashchat.video.tokens import tokens_of_clip
from tests.helpers.flashes import FPS, INTERVAL, MAX_FRAMES, SIGN, frames
from tests.helpers.models import CPU

FILES = ["adapter_config.json", "adapter_model.safetensors"]
SETTINGS = {"fps": FPS, "max_frames": MAX_FRAMES, "max_new_tokens": 24, "device": CPU}


def look_at(cascade: Cascade, flash: tuple[int, int] | None) -> VideoContext:
    pictures = torch.from_numpy(frames(90, 15, flash)).permute(0, 3, 1, 2)
    return VideoContext(
        [
            tokens_of_clip(
                Clip("", pictures, [float(second) for second in range(15)]), cascade.answerer.settings
            )
        ]
    )


@contextmanager
def counted(cascade: Cascade):
    """How often vision encoder and projector run: {"vision": n, "projector": n},
    by hooks on the modules themselves.
    """
    base = (
        cascade.answerer.model.get_base_model()
        if hasattr(cascade.answerer.model, "get_base_model")
        else cascade.answerer.model
    )
    counts = {"vision": 0, "projector": 0}
    hooks = []
    for name, module in (("vision", base.model.vision_model), ("projector", base.model.projector)):

        def count(*_, name=name):
            counts[name] += 1

        hooks.append(module.register_forward_pre_hook(count))
    yield counts
    for hook in hooks:
        hook.remove()


@pytest.fixture(scope="module")
def cascade(tiny_base, flash_adapters) -> Cascade:
    return load_cascade(tiny_base, *flash_adapters, **SETTINGS)


def test_yes_is_localized_and_no_is_not(cascade):
    with counted(cascade) as counts:
        (output,) = cascade.run(look_at(cascade, (6, 9)))
        assert counts == {
            "vision": 1,
            "projector": 2,
        }  # frames encoded once, the prefix again for the other projector
    assert output.crash is True and output.probability > 0.5
    assert [answer.task for answer in output.answers] == list(TASKS)
    assert [answer.adapter for answer in output.answers] == [LINGUISTIC] * 4 + [PERCEPTION] * 2
    assert [answer.raw_response for answer in output.answers[4:]] == [INTERVAL, SIGN]
    assert output.values("crash_interval") == [8.0, 12.0]

    with counted(cascade) as counts:
        (output,) = cascade.run(look_at(cascade, None))
        assert counts == {"vision": 1, "projector": 1}
    assert output.crash is False and output.probability < 0.5
    assert [answer.task for answer in output.answers] == list(TASKS.groups[LINGUISTIC])


def test_several_stretches_at_once_are_answered_as_each_alone(cascade):
    flashes = [(6, 9), None, (2, 5), None]
    contexts = [look_at(cascade, flash) for flash in flashes]
    alone = [cascade.run(context)[0] for context in contexts]
    with counted(cascade) as counts:
        together = cascade.run(VideoContext([context.visuals[0] for context in contexts]))
        assert counts == {"vision": 1, "projector": 2}  # the perception adapter reads the two crashes alone
    assert [output.answers for output in together] == [output.answers for output in alone]
    assert [output.crash for output in together] == [True, False, True, False]
    assert [output.probability for output in together] == pytest.approx(
        [output.probability for output in alone], abs=1e-5
    )


def test_each_adapter_answers_as_in_its_own_evaluation(cascade, tiny_base, flash_adapters):
    context = look_at(cascade, (2, 5))
    (output,) = cascade.run(context)
    for folder, group in zip(flash_adapters, (LINGUISTIC, PERCEPTION), strict=True):
        alone = load_adapter(load_model(tiny_base, cascade.answerer.tokenizer, CPU), folder)
        prompts = [TASKS[task].prompt for task in TASKS.groups[group]]
        expected = answer_questions(
            alone, cascade.answerer.tokenizer, visuals=context.visuals, questions=[prompts], max_new_tokens=24
        )[0]
        given = [answer.raw_response for answer in output.answers if answer.adapter == group]
        assert given == [decode(cascade.answerer.tokenizer, tokens) for tokens in expected]


def test_one_adapter_or_one_model_for_all_tasks_is_never_switched(tiny_base, flash_adapters):
    twice = load_cascade(tiny_base, flash_adapters[0], flash_adapters[0], **SETTINGS)
    with counted(twice) as counts:
        (output,) = twice.run(look_at(twice, (6, 9)))
        assert counts == {"vision": 1, "projector": 1} and len(output.answers) == 6
    alone = load_cascade(tiny_base, **SETTINGS)
    (output,) = alone.run(look_at(alone, None))
    assert {answer.adapter for answer in output.answers} == {None}
    assert alone.identity[LINGUISTIC] is None and alone.identity[BASE]["name"] == "tiny_base"


def test_free_questions_share_the_prefix(cascade):
    context = look_at(cascade, None)
    cascade.run(context)
    with counted(cascade) as counts:
        first = cascade.ask(context, TASKS["crash_recognition"].prompt, LINGUISTIC)
        assert first == cascade.ask(context, TASKS["crash_recognition"].prompt, LINGUISTIC) == "No"
        assert counts == {"vision": 0, "projector": 0}
        cascade.ask(context, "Is there a car?", BASE)
        assert counts == {"vision": 0, "projector": 1}
    assert cascade.adapter_choices() == [LINGUISTIC, PERCEPTION, BASE]
    # The base's turn left nothing behind.
    assert cascade.ask(context, TASKS["crash_recognition"].prompt, LINGUISTIC) == "No"


def test_adapters_that_adapt_the_vision_encoder_have_features_of_their_own(shared, tmp_path):
    folder = shared / "golden" / "reference"
    other = shutil.copytree(folder / "lora", tmp_path / "lora")
    cascade = load_cascade(
        folder / "base", folder / "lora", other, vision_config=folder / "vision" / "config.json", device=CPU
    )
    context = VideoContext(
        [
            tokens_of_clip(
                Clip("", torch.zeros(2, 3, 56, 56, dtype=torch.uint8), [0.0, 0.1]), cascade.answerer.settings
            )
        ]
    )
    with counted(cascade) as counts:
        cascade.ask(context, "Why?", LINGUISTIC)
        cascade.ask(context, "Why?", PERCEPTION)
        assert counts == {"vision": 2, "projector": 2}


def test_constrained_answers_always_parse(tiny_base):
    """The base has learnt none of the tasks: freely it says no such thing."""
    free, constrained = (
        load_cascade(tiny_base, decode=decode, **SETTINGS) for decode in ("free", "constrained")
    )
    assert free.run(look_at(free, (6, 9)))[0].crash is None
    (output,) = constrained.run(look_at(constrained, (6, 9)))
    assert output.crash is not None and output.crash == (output.probability > 0.5)
    (asked,) = constrained._ask(
        look_at(constrained, (6, 9)), PERCEPTION, [[TASKS[name] for name in TASKS.groups[PERCEPTION]]]
    )
    assert [answer.values is not None and max(answer.values.values()) <= 15 for answer in asked] == [
        True,
        True,
    ]


def test_models_are_told_apart_by_content(cascade, tiny_base, flash_adapters, tmp_path):
    copy = shutil.copytree(flash_adapters[0], tmp_path / "another name")
    assert cascade.identity[LINGUISTIC] == {
        "name": "flash_linguistic",
        "sha256": content_hash(copy, FILES),
        "trained_on": None,
        "unknown": [],
    }
    assert cascade.identity[BASE]["trained_on"] == [{"name": "CrashChat synthetic", "drawn": True}]
    weights = copy / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    assert content_hash(copy, FILES) != cascade.identity[LINGUISTIC]["sha256"]
    with pytest.raises(CheckpointError, match="belong together"):
        load_cascade(tiny_base, linguistic=flash_adapters[0])
    with pytest.raises(CheckpointError, match="no adapter at"):
        load_cascade(tiny_base, tmp_path / "nowhere", flash_adapters[1])


# --- windows: which, and what their findings add up to


def test_windows_cover_a_recording_and_short_clips_are_not_cut():
    settings = WindowSettings(length=20, stride=15, whole_up_to=60)
    seconds = [float(second) for second in range(80)]
    assert plan(59.3, settings, seconds) == [(0.0, 59.3)]
    spans = plan(72.5, settings, seconds)
    assert spans == [(0.0, 20.0), (15.0, 35.0), (30.0, 50.0), (45.0, 65.0), (52.5, 72.5)]
    assert plan(80.0, settings, seconds)[-2:] == [(45.0, 65.0), (60.0, 80.0)]
    with pytest.raises(WindowError, match="stride of 21 s with windows of 20 s"):
        WindowSettings(length=20, stride=21)


def found(
    start: float, crash: tuple[float, float] | None, probability: float = 0.9, length: float = 20.0
) -> Window:
    """A window's finding as it stands in a result."""
    interval = Interval(start=crash[0], end=crash[1]) if crash else None
    return Window(
        start=start, end=start + length, status=CRASH, crash_probability=probability, crash=interval
    )


@pytest.mark.parametrize(
    "windows, expected",
    [
        # Two windows that saw the same crash, and the surer one is believed.
        ([found(0, (16.0, 19.0)), found(15, (16.5, 20.0), 0.99)], [(16.5, 20.0, [0, 1])]),
        # Equally sure: the one that has the crash nearer to its middle.
        ([found(0, (15.0, 17.0)), found(15, (15.5, 17.5))], [(15.0, 17.0, [0, 1])]),
        # Apart by no more than the gap, then by more.
        ([found(0, (10.0, 12.0)), found(10, (12.8, 14.0))], [(10.0, 12.0, [0, 1])]),
        ([found(0, (10.0, 12.0)), found(10, (13.2, 14.0))], [(10.0, 12.0, [0]), (13.2, 14.0, [1])]),
        # Near, but of windows that share nothing: two crashes.
        ([found(0, (19.0, 20.0)), found(20, (20.0, 21.0))], [(19.0, 20.0, [0]), (20.0, 21.0, [1])]),
        # A finding without an interval joins one that lies in its window, or stands alone.
        ([found(0, None), found(15, (16.0, 18.0))], [(16.0, 18.0, [0, 1])]),
        ([found(0, None), found(60, (70.0, 72.0))], [(0.0, 20.0, [0]), (70.0, 72.0, [1])]),
    ],
)
def test_overlapping_findings_are_one_event(windows, expected):
    events = find_events(windows, 100.0, WindowSettings(20, 15, merge_gap=1.0))
    assert [(event.start, event.end, event.windows) for event in events] == expected
    assert [event.localized for event in events] == [
        windows[event.window].crash is not None for event in events
    ]


def test_times_move_to_the_recordings_clock_and_contradictions_are_told(cascade):
    (output,) = cascade.run(look_at(cascade, (6, 9)))
    window = window_of(output, (100.0, 115.0))
    assert window.crash == Interval(start=108.0, end=112.0) and window.first_sign == 106.0
    assert window.answers[4].values == {"pred_start": 8.0, "pred_end": 12.0}  # as it was said
    short = window_of(output, (100.0, 107.0))
    assert short.crash is None and short.first_sign == 106.0
    assert any("interval lies behind the end of what was shown (7.0 s)" in note for note in short.notes)


@pytest.mark.parametrize(
    "crash, described, status",
    [
        (False, "ego-car hits a crossing.", CONTRADICTION),
        (True, "no collision.", CONTRADICTION),
        (True, "No collision", CONTRADICTION),
        (True, "car hits a truck.", CRASH),
        (False, "no collision.", NO_CRASH),
        (False, "", NO_CRASH),
        (None, "car hits a truck.", UNDECIDED),
    ],
)
def test_answers_that_contradict_each_other_are_a_status_of_their_own(crash, described, status):
    words = {True: "Yes", False: "No", None: "Maybe"}[crash]
    answers = [
        Answer("crash_recognition", LINGUISTIC, words, 0.6),
        Answer("crash_description", LINGUISTIC, described),
        Answer("crash_localization", PERCEPTION, INTERVAL),
    ]
    output = CascadeOutput(crash, 0.6, tuple(answers[: 3 if crash else 2]))
    window = window_of(output, (0.0, 15.0))
    assert window.status == status and window.saw_crash == (crash is True)
    assert any("but the description is" in note for note in window.notes) == (status == CONTRADICTION)
    # A crash that was seen is an event, whatever the description says of it.
    events = find_events([window], 15.0, WindowSettings(20, 15))
    assert [(event.start, event.end) for event in events] == ([(8.0, 12.0)] if crash else [])


def test_a_clip_is_what_its_windows_are():
    calm, broken = Window(start=0, end=20, status=NO_CRASH), failed_window((0, 20), "cut off")
    unsure = Window(start=0, end=20, status=UNDECIDED)
    assert status_of([calm, broken]) == NO_CRASH and status_of([calm, unsure]) == UNDECIDED
    assert status_of([unsure, found(0, None)]) == CRASH and status_of([broken]) == FAILED
    torn = Window(start=0, end=20, status=CONTRADICTION)
    assert status_of([calm, torn, unsure]) == CONTRADICTION and status_of([torn, found(0, None)]) == CRASH
