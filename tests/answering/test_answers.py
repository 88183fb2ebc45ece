"""Answers to several questions on several videos at once are those to each alone; how answers are drawn."""

import pytest
import torch

from crashchat.answering.draws import Draw, draw_tokens
from crashchat.answering.generate import answer_from_prefix, answer_questions
from crashchat.answering.prefix import encode, prefill
from crashchat.checkpoints.folders import load_model, load_video_settings
from crashchat.model.attention import segments_of
from crashchat.model.packing import pack
from crashchat.model.sequence import Branch, build_sequence
from crashchat.tasks import TASKS
from crashchat.video.reading import read_visual_tokens
from crashchat.video.tokens import VisualTokens
from tests.helpers.models import CPU, visual_of


def test_answers_together_are_the_answers_one_by_one(tiny_base, tiny_tokenizer, tiny_data):
    """All questions on several videos of different lengths at once, and each alone in the plain way."""
    model = load_model(tiny_base, tiny_tokenizer, CPU)
    settings = load_video_settings(tiny_base)
    clips = sorted((tiny_data / "videos").iterdir())[:4]
    visuals = [read_visual_tokens(str(clip), settings) for clip in clips]
    assert len({visual.num_kept for visual in visuals}) > 1
    prompts = [task.prompt for task in TASKS.values()]
    questions = [prompts, prompts[:1], prompts[2:5], prompts[::-1]]
    together = answer_questions(model, tiny_tokenizer, visuals, questions, max_new_tokens=32)
    # Branches end at different steps.
    assert len({len(answer) for answers in together for answer in answers}) > 2
    for visual, asked, answers in zip(visuals, questions, together, strict=True):
        assert answers == [
            plain_answer(model, tiny_tokenizer, visual=visual, question=question, most=32)
            for question in asked
        ]


def plain_answer(model, tokenizer, visual: VisualTokens, question: str, most: int) -> list[int]:
    """Greedy decoding without any cache: the whole ordinary sample through the model for every token."""
    sequence = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, [Branch(question)])
    batch = pack([sequence], [visual]).as_dict()
    names = ("input_ids", "position_ids", "branch_ids", "stem_ids", "video_ids")
    columns = {name: batch[name] for name in names}
    answer: list[int] = []
    with torch.no_grad():
        kept = encode(model, [visual])
        while len(answer) < most:
            embeddings = model.embed(columns["input_ids"], kept, batch["image_index"])
            mask = segments_of(columns["video_ids"], columns["branch_ids"], columns["stem_ids"])
            hidden = model.hidden_states(embeddings, columns["position_ids"], mask)
            token = int(model.lm_head(hidden[0, -1]).argmax())
            if token == tokenizer.eos_token_id:
                break
            answer.append(token)
            position = int(columns["position_ids"][0, -1]) + 1
            for name, value in zip(names, (token, position, 1, 0, 0), strict=True):
                columns[name] = torch.cat([columns[name], torch.tensor([[value]])], dim=1)
    return answer


def test_a_prefix_answers_again_and_again_from_features_computed_once(tiny_base, tiny_tokenizer):
    model = load_model(tiny_base, tiny_tokenizer, CPU)
    visual = visual_of(frames=4)
    questions = [TASKS["crash_description"].prompt, "Is there a car?"]
    prefix = prefill(model, tiny_tokenizer, [visual], encode(model, [visual]))
    (first,), (logits,), _ = answer_from_prefix(
        model, tiny_tokenizer, prefix=prefix, questions=[questions], max_new_tokens=16
    )
    again = [
        answer_from_prefix(model, tiny_tokenizer, prefix=prefix, questions=[[question]], max_new_tokens=16)[
            0
        ][0][0]
        for question in questions
    ]
    assert (
        [first]
        == [again]
        == answer_questions(model, tiny_tokenizer, visuals=[visual], questions=[questions], max_new_tokens=16)
    )
    assert [int(row.argmax()) for row in logits] == [answer[0] for answer in first]


def test_constant_shapes_change_no_answer(tiny_base, tiny_tokenizer, tiny_data):
    """As on a GPU: ended branches go on with padding, attention is over the whole room; asked twice."""
    model = load_model(tiny_base, tiny_tokenizer, CPU)
    settings = load_video_settings(tiny_base)
    visuals = [
        read_visual_tokens(str(clip), settings) for clip in sorted((tiny_data / "videos").iterdir())[:3]
    ]
    prompts = [task.prompt for task in TASKS.values()]
    questions = [prompts, prompts[:1], prompts[3:5]]
    prefix = prefill(model, tiny_tokenizer, visuals)
    shapes = set()
    layer = model.model.language_model.layers[0].self_attn
    layer.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.add(tuple(kwargs["hidden_states"].shape)), with_kwargs=True
    )
    expected = answer_from_prefix(model, tiny_tokenizer, prefix, questions, max_new_tokens=24)
    assert len(shapes) > 3
    for _ in range(2):
        shapes.clear()
        found = answer_from_prefix(
            model, tiny_tokenizer, prefix, questions, max_new_tokens=24, constant_shapes=True
        )
        assert found.tokens == expected.tokens and len(shapes) == 2  # the questions, and every step


def test_drawn_answers_are_their_own_streams_and_say_their_probability(tiny_base, tiny_tokenizer):
    model = load_model(tiny_base, tiny_tokenizer, CPU)
    visual, question = visual_of(frames=4), TASKS["crash_description"].prompt
    prefix = prefill(model, tiny_tokenizer, [visual])

    def drawn(*draws: Draw):
        found = answer_from_prefix(
            model, tiny_tokenizer, prefix, [[question] * len(draws)], max_new_tokens=12, draws=[draws]
        )
        return list(zip(found.tokens[0], found.log_probs[0], strict=True))

    together = drawn(Draw("a"), Draw("b", temperature=0.7), Draw("c", top_p=0.6))
    for one, draw in zip(
        together, (Draw("a"), Draw("b", temperature=0.7), Draw("c", top_p=0.6)), strict=True
    ):
        ((tokens, log_probs),) = drawn(draw)
        assert tokens == one[0] and log_probs == pytest.approx(one[1], abs=1e-5)
    ((greedy, sure),) = drawn(Draw("d", top_p=1e-9))
    likeliest = answer_from_prefix(model, tiny_tokenizer, prefix, [[question]], max_new_tokens=12)
    assert greedy == likeliest.tokens[0][0] and sure == pytest.approx(likeliest.log_probs[0][0], abs=1e-5)
    tokens, log_probs = together[0]
    closing = [tiny_tokenizer.eos_token_id] if len(log_probs) > len(tokens) else []
    ids = torch.tensor([*tokens, *closing])
    sequence = build_sequence(tiny_tokenizer, visual.seconds, visual.kept_per_frame, [Branch(question)])
    batch = pack([sequence], [visual])
    with torch.no_grad():
        row = torch.cat([batch.input_ids[0], ids])[None]
        branches = torch.cat([batch.branch_ids[0], torch.ones(len(ids), dtype=torch.int64)])[None]
        embeddings = model.embed(row, encode(model, [visual]), batch.image_index)
        mask = segments_of(torch.zeros_like(row), branches, torch.zeros_like(row))
        hidden = model.hidden_states(embeddings, torch.arange(row.shape[1])[None], mask)
        logits = model.lm_head(hidden[0, -len(ids) - 1 : -1]).log_softmax(dim=-1)
    assert log_probs == pytest.approx(logits[range(len(ids)), ids].tolist(), abs=1e-4)
    with pytest.raises(ValueError, match="expected more than 0"):
        Draw("a", temperature=0)


def test_draws_follow_the_distribution():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(4000, 3)
    tokens, values = draw_tokens(logits, [Draw(str(number)) for number in range(4000)], step=3)
    shares = torch.bincount(torch.tensor(tokens), minlength=3) / 4000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.03)
    assert values[0] == pytest.approx(float(logits[0, tokens[0]]))
    tokens, _ = draw_tokens(logits, [Draw(str(number), top_p=0.6) for number in range(4000)], step=0)
    assert set(tokens) == {0, 1} and abs(tokens.count(0) / 4000 - 0.625) < 0.03
