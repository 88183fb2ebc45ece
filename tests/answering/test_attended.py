"""Which frames questions attend to, against all of transformers' own attention; times read off heads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crashchat.answering.attended import attended_frames
from crashchat.answering.generate import answer_from_prefix
from crashchat.answering.prefix import encode, prefill
from crashchat.answering.time_heads import HeadsError, Sample, TimeHeads, check_fit, choose_heads, read_times
from crashchat.checkpoints.folders import load_model, load_video_settings
from crashchat.model.packing import pack
from crashchat.model.sequence import Branch, build_sequence
from crashchat.tasks import TASKS
from crashchat.video.reading import read_visual_tokens
from tests.helpers.models import CPU

CRASH, SIGN = "crash_localization", "pre_crash_localization"


def test_a_question_attends_as_transformers_own_attention_says(tiny_base, tiny_tokenizer, tiny_data):
    model, settings = load_model(tiny_base, tiny_tokenizer, CPU), load_video_settings(tiny_base)
    clips = sorted((tiny_data / "videos").glob("test_*.mp4"))[:2]
    visuals = [read_visual_tokens(str(clip), settings) for clip in clips]
    assert len({visual.num_kept for visual in visuals}) == 2
    questions = [[TASKS[SIGN].prompt, "When?"], [TASKS[CRASH].prompt]]
    prefix = prefill(model, tiny_tokenizer, visuals)
    before = answer_from_prefix(model, tiny_tokenizer, prefix, questions, max_new_tokens=4).tokens
    found = attended_frames(model, tiny_tokenizer, prefix, visuals, questions)
    assert answer_from_prefix(model, tiny_tokenizer, prefix, questions, max_new_tokens=4).tokens == before

    language = model.model.language_model
    language.set_attn_implementation("eager")
    for visual, asked, shares in zip(visuals, questions, found, strict=True):
        for question, own in zip(asked, shares, strict=True):
            sequence = build_sequence(
                tiny_tokenizer, visual.seconds, visual.kept_per_frame, [Branch(question)]
            )
            batch = pack([sequence], [visual]).as_dict()
            length = len(sequence)
            causal = torch.full((1, 1, length, length), -torch.inf).triu(1)
            with torch.no_grad():
                embeddings = model.embed(batch["input_ids"], encode(model, [visual]), batch["image_index"])
                layers = language(
                    inputs_embeds=embeddings,
                    position_ids=batch["position_ids"],
                    attention_mask={"full_attention": causal},
                    output_attentions=True,
                ).attentions
            begin = int((sequence.branch_ids == 0).sum())
            each = torch.stack([layer[0, :, begin:].mean(dim=1) for layer in layers])
            frames = each[..., sequence.image_places].split(visual.kept_per_frame, dim=-1)
            expected = torch.stack([frame.sum(dim=-1) for frame in frames], dim=-1)
            assert own.shape == expected.shape == (len(layers), 4, len(visual.seconds))
            torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-4)


def made(times: list[float], seconds: list[float], chance: np.random.Generator) -> Sample:
    """A clip where head 2 of layer 1 looks at the times, head 0 of layer 0 always at the end, and all others
    nowhere.
    """
    count = len(seconds) - 1
    shares = chance.uniform(0.9, 1.1, (2, 3, count))
    shares[0, 0] *= np.linspace(1, 9, count)
    begins = np.array(seconds[:-1])
    asked = (begins >= times[0] - 1e-6) & (begins <= times[-1] + 1e-6)
    shares[1, 2, asked] *= 5
    return Sample(shares / shares.sum() / 10, seconds, times)


@pytest.mark.parametrize(("task", "length"), [(CRASH, 1.0), (SIGN, 0.0)])
def test_the_heads_that_look_at_the_times_are_chosen_and_read(task, length):
    chance = np.random.default_rng(0)
    samples = []
    for _ in range(40):
        seconds = [round(0.25 * place, 2) for place in range(int(chance.integers(12, 40)))]
        begin = seconds[int(chance.integers(1, len(seconds) - 6))]
        samples.append(made([begin, begin + length] if length else [begin], seconds, chance))
    found = choose_heads(task, samples)
    best = found.heads[0]
    assert (best.layer, best.head) == (1, 2) and best.lift > 2 and found.clips == 40
    always = [one for one in found.heads if (one.layer, one.head) == (0, 0)]
    assert all(one.lift < 1.3 for one in always)  # its place is no news
    for sample in samples:
        times = read_times(task, found, sample.shares, sample.seconds)
        assert len(times) == len(sample.times)
        assert times == pytest.approx(sample.times, abs=0.31)  # of a frame that begins, and in tenths
    assert found.score > (0.7 if length else -0.1)


def test_heads_of_a_larger_model_are_refused():
    samples = [made([1.0], [0.5 * place for place in range(9)], np.random.default_rng(1))]
    found = choose_heads(SIGN, samples)
    heads = TimeHeads(weights={}, split="train", tasks={SIGN: found})
    check_fit(heads, layers=2, count=3, path=Path("heads.json"))
    with pytest.raises(HeadsError, match=r"heads.json: pre_crash_localization: head . of layer 1 .* 1 lay"):
        check_fit(heads, layers=1, count=3, path=Path("heads.json"))
