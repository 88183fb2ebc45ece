"""The model: the reference's losses, and several questions in one sequence against separate samples."""

import json
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from crashchat.answering.draws import Draw, draw_tokens
from crashchat.answering.generate import answer_from_prefix, answer_questions
from crashchat.answering.prefix import encode, prefill
from crashchat.checkpoints.adapters import load_adapter
from crashchat.checkpoints.folders import load_model, load_tokenizer, load_video_settings
from crashchat.checkpoints.layouts import read_vision_config
from crashchat.model.attention import segments_of
from crashchat.model.lora import add_adapter, leave_inputs_as_they_are, trainable_parameters
from crashchat.model.masks import dense_mask
from crashchat.model.packing import PackedBatch, pack
from crashchat.model.sequence import IGNORED, Branch, build_sequence
from crashchat.model.videollama3 import CrashChatModel
from crashchat.tasks import GROUPS, TASKS, question_text
from crashchat.video.decode import Clip
from crashchat.video.reading import read_visual_tokens
from crashchat.video.tokens import VisionSettings, VisualTokens, visual_tokens
from tests.helpers.models import CPU, visual_of


@pytest.fixture(scope="module")
def reference(shared):
    """(golden values, tokenizer, model, visual tokens) of the reference's tiny checkpoint and video."""
    folder = shared / "golden" / "reference"
    tokenizer = load_tokenizer(folder / "base")
    vision = read_vision_config(folder / "vision" / "config.json")
    model = load_model(folder / "base", tokenizer, CPU, vision=vision)
    golden = json.loads((folder / "golden.json").read_text())
    visual = VisualTokens(
        pixel_values=torch.from_numpy(np.load(folder / "pixel_values.npy")),
        grid_thw=torch.tensor(golden["grid_sizes"]),
        merge_sizes=torch.tensor(golden["merge_sizes"]),
        compression_mask=torch.from_numpy(np.load(folder / "compression_mask.npy")).bool(),
        seconds=golden["sampling"]["golden"]["timestamps"],
    )
    return golden, tokenizer, model, visual, folder


def test_reference_features_losses_and_answers(reference):
    golden, tokenizer, model, visual, folder = reference
    with torch.no_grad():
        features = model.model.projector(
            model.encode_videos(visual.pixel_values, visual.grid_thw.tolist(), visual.merge_sizes.tolist())
        )
    assert np.abs(features.numpy() - np.load(folder / "projected_features.npy")).max() < 1e-5
    logits = np.load(folder / "logits_last64.npz")
    for case in golden["cases"]:
        branch = Branch(question_text(case["question"]), case["answer"])
        sequence = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, [branch])
        assert len(sequence) == case["compressed_length"]
        assert sequence.labels.tolist() == case["compressed_labels"]
        batch = pack([sequence], [visual]).as_dict()
        with torch.no_grad():
            output = model(**batch)
            kept = model.encode_videos(
                visual.pixel_values, visual.grid_thw.tolist(), visual.merge_sizes.tolist()
            )[visual.compression_mask]
            embeddings = model.embed(batch["input_ids"], kept, batch["image_index"])
            hidden = model.hidden_states(embeddings, batch["position_ids"], batch["segments"])
        assert abs(float(output.loss_sum / output.num_labels) - case["loss"]) < 1e-5, case["task"]
        assert (
            np.abs(model.lm_head(hidden)[0, -64:].detach().numpy() - logits[f"{case['task']}_0"]).max() < 1e-4
        )
    questions = [question_text(case["question"]) for case in golden["cases"]]
    (answers,) = answer_questions(model, tokenizer, [visual], [questions], max_new_tokens=24)
    assert answers == [case["generated_ids"] for case in golden["cases"]]


def test_reference_losses_with_its_adapter(reference):
    """The released adapter form, with LoRA on the vision encoder's attention too (see adapters.py)."""
    golden, tokenizer, _, visual, folder = reference
    vision = read_vision_config(folder / "vision" / "config.json")
    model = load_adapter(load_model(folder / "base", tokenizer, CPU, vision=vision), folder / "lora")
    for case in golden["cases"]:
        branch = Branch(question_text(case["question"]), case["answer"])
        sequence = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, [branch])
        with torch.no_grad():
            output = model(**pack([sequence], [visual]).as_dict())
        assert abs(float(output.loss_sum / output.num_labels) - case["lora_loss"]) < 1e-5, case["task"]


@pytest.fixture
def adapted(tiny_base, tiny_tokenizer):
    """tiny_base with a LoRA adapter whose weights are not zero, dropout off."""
    model = load_model(tiny_base, tiny_tokenizer, CPU)
    model.requires_grad_(False)
    model = add_adapter(model, rank=4, alpha=8, dropout=0.0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def loss_and_gradients(model, batches) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean loss over all labelled tokens of several batches, and its gradients."""
    model.zero_grad()
    outputs = [model(**batch.as_dict()) for batch in batches]
    loss = sum(output.loss_sum for output in outputs) / sum(output.num_labels for output in outputs)
    loss.backward()
    return float(loss.detach()), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


ANSWERS = ["Yes", "ego-car hits a car", "It brakes late.", "Keep away.", "1.9 - 4.0 seconds", "1.0 seconds"]
BRANCHES = {
    name: Branch(task.prompt, answer) for (name, task), answer in zip(TASKS.items(), ANSWERS, strict=True)
}
STRATEGIES = {**{name: [name] for name in TASKS}, **GROUPS, "heterogeneous": list(TASKS)}


def samples(tasks: Iterable[str] = TASKS) -> list[tuple[VisualTokens, list[Branch]]]:
    """Three videos of different sizes, with all of the questions, the last two and one;
    tokens dropped from two videos.
    """
    torch.manual_seed(0)
    branches = [BRANCHES[name] for name in tasks]
    long, short, other = visual_of(5, 2), visual_of(3, 2), visual_of(4, 3)
    long.compression_mask[3:5] = False
    other.compression_mask[7] = False
    return [(long, branches), (short, branches[-2:]), (other, branches[:1])]


def packed_of(tokenizer, videos: list[tuple[VisualTokens, list[Branch]]]) -> PackedBatch:
    """Videos with their questions in one batch."""
    sequences = [
        build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, asked) for visual, asked in videos
    ]
    return pack(sequences, [visual for visual, _ in videos])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_branches_give_the_losses_and_gradients_of_separate_samples(adapted, tiny_tokenizer, strategy):
    videos = samples(STRATEGIES[strategy])
    together = [packed_of(tiny_tokenizer, videos)]
    apart = [
        packed_of(tiny_tokenizer, [(visual, [branch])]) for visual, branches in videos for branch in branches
    ]
    loss, gradients = loss_and_gradients(adapted, together)
    expected_loss, expected = loss_and_gradients(adapted, apart)
    assert abs(loss - expected_loss) < 1e-5
    assert gradients.keys() == expected.keys() and len(gradients) > 40
    assert max(float((gradients[name] - expected[name]).abs().max()) for name in expected) < 1e-5


def test_a_leak_between_branches_is_caught(adapted, tiny_tokenizer, monkeypatch):
    """The check above must be able to fail: branches that see each other, as in a plain causal row,
    change the loss.
    """
    batch = packed_of(tiny_tokenizer, samples()[:1])
    right, _ = loss_and_gradients(adapted, [batch])
    monkeypatch.setattr(CrashChatModel, "mask_of", lambda *_: None)
    leaking, _ = loss_and_gradients(adapted, [batch])
    assert abs(leaking - right) > 1e-3


def test_every_attention_gives_the_same_loss(adapted, tiny_tokenizer, monkeypatch):
    """Segment by part, with the dense mask of the one rule, and FlexAttention's BlockMask."""
    batch = packed_of(tiny_tokenizer, samples())
    with torch.no_grad():
        expected = float(adapted(**batch.as_dict()).loss_sum)
        with monkeypatch.context() as patched:
            patched.setattr(CrashChatModel, "mask_of", lambda _, segments, *ids: dense_mask(*ids))
            assert abs(float(adapted(**batch.as_dict()).loss_sum) - expected) < 1e-5 * expected
        adapted.get_base_model().model.language_model.config._attn_implementation = "flex_attention"
        assert abs(float(adapted(**batch.as_dict()).loss_sum) - expected) < 1e-5 * expected


def test_checkpointing_recomputes_the_language_model_alone_and_logits_are_of_labels_alone(
    adapted, tiny_tokenizer
):
    batch = packed_of(tiny_tokenizer, samples())
    base = adapted.get_base_model()
    runs = {"vision": 0, "language": 0}
    shapes = []
    for name, layer in (
        ("vision", base.model.vision_model.encoder.layers[0]),
        ("language", base.model.language_model.layers[0]),
    ):
        layer.mlp.register_forward_pre_hook(lambda *_, name=name: runs.update({name: runs[name] + 1}))
    base.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    adapted.train()
    plain, gradients = loss_and_gradients(adapted, [batch])
    assert runs == {"vision": 2, "language": 1}  # once for each size of frames
    adapted.gradient_checkpointing_enable({"use_reentrant": False})
    checkpointed, same = loss_and_gradients(adapted, [batch])
    assert runs == {"vision": 4, "language": 3}
    assert plain == pytest.approx(checkpointed) and all(
        torch.allclose(same[name], gradients[name]) for name in gradients
    )
    labelled = int((batch.labels != IGNORED).sum())
    assert shapes == [(labelled, base.config.text_config.vocab_size)] * 2


def test_frozen_and_trained_parts(adapted):
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "modules_to_save.default.readout" in name for name in trained)
    layers = adapted.get_base_model().config.text_config.num_hidden_layers
    assert len([name for name in trained if "lora_" in name]) == layers * 7 * 2
    assert len([name for name in trained if "readout" in name]) == 4
    assert not any("vision_model" in name or "lm_head" in name for name in trained)


def test_trained_parameters_of_the_7b_recipe():
    from transformers import VideoLlama3Config

    from crashchat.checkpoints.layouts import SO400M

    text = {"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064}  # fmt: skip
    with torch.device("meta"):
        model = CrashChatModel(VideoLlama3Config(text_config=text, vision_config=SO400M))
        model.requires_grad_(False)
        model = add_adapter(model, rank=64, alpha=16, dropout=0.05)
    lora = 28 * 64 * ((3584 + 3584) * 2 + (3584 + 512) * 2 + (3584 + 18944) * 3)
    projector = 1152 * 3584 + 3584 + 3584 * 3584 + 3584
    assert trainable_parameters(model)[0] == lora + projector == 178_461_696


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
    names = ("input_ids", "position_ids", "branch_ids", "video_ids")
    columns = {name: batch[name] for name in names}
    answer: list[int] = []
    with torch.no_grad():
        kept = encode(model, [visual])
        while len(answer) < most:
            embeddings = model.embed(columns["input_ids"], kept, batch["image_index"])
            mask = segments_of(columns["video_ids"], columns["branch_ids"])
            hidden = model.hidden_states(embeddings, columns["position_ids"], mask)
            token = int(model.lm_head(hidden[0, -1]).argmax())
            if token == tokenizer.eos_token_id:
                break
            answer.append(token)
            position = int(columns["position_ids"][0, -1]) + 1
            for name, value in zip(names, (token, position, 1, 0), strict=True):
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


def test_the_merge_size_is_the_videos_own(tiny_base, tiny_tokenizer):
    """A token of one patch, of 2 x 2 and of 4 x 4:
    as many features come out as the video's settings say tokens.
    """
    model = load_model(tiny_base, tiny_tokenizer, CPU)
    frames = torch.randint(
        0, 255, (2, 3, 56, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    videos = [
        visual_tokens(Clip("", frames, [0.0, 1.0]), VisionSettings(merge_size=merge)) for merge in (1, 2, 4)
    ]
    with torch.no_grad():
        features = model.encode_videos(
            torch.cat([video.pixel_values for video in videos]),
            [video.grid_thw[0].tolist() for video in videos],
            [int(video.merge_sizes) for video in videos],
        )
    assert [len(video.compression_mask) for video in videos] == [64, 16, 4] and len(features) == 64 + 16 + 4


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
    ((greedy, _),) = drawn(Draw("d", top_p=1e-9))
    assert (
        greedy
        == answer_from_prefix(model, tiny_tokenizer, prefix, [[question]], max_new_tokens=12).tokens[0][0]
    )
    tokens, log_probs = together[0]
    closing = [tiny_tokenizer.eos_token_id] if len(log_probs) > len(tokens) else []
    ids = torch.tensor([*tokens, *closing])
    sequence = build_sequence(tiny_tokenizer, visual.seconds, visual.kept_per_frame, [Branch(question)])
    batch = pack([sequence], [visual])
    with torch.no_grad():
        row = torch.cat([batch.input_ids[0], ids])[None]
        branches = torch.cat([batch.branch_ids[0], torch.ones(len(ids), dtype=torch.int64)])[None]
        embeddings = model.embed(row, encode(model, [visual]), batch.image_index)
        mask = segments_of(torch.zeros_like(row), branches)
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


def test_what_is_trained_is_float32_on_a_bfloat16_base(tiny_base, tiny_tokenizer, tmp_path):
    base = load_model(tiny_base, tiny_tokenizer, CPU, torch.bfloat16).requires_grad_(False)
    model = add_adapter(base, rank=4, alpha=8, dropout=0.0)
    types = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert types == {True: torch.float32, False: torch.bfloat16}
    loss, gradients = loss_and_gradients_in_bfloat16(model, [packed_of(tiny_tokenizer, samples())])
    leave_inputs_as_they_are(model)
    same, bits = loss_and_gradients_in_bfloat16(model, [packed_of(tiny_tokenizer, samples())])
    assert loss == same and all(bits[name].equal(gradients[name]) for name in gradients)
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    model.save_pretrained(tmp_path / "adapter")
    fresh = load_model(tiny_base, tiny_tokenizer, CPU, torch.bfloat16)
    loaded = load_adapter(fresh, tmp_path / "adapter")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert answer_questions(loaded, tiny_tokenizer, [visual_of(3)], [["Is there a car?"]], max_new_tokens=4)


def loss_and_gradients_in_bfloat16(model, batches):
    """As loss_and_gradients, under autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        return loss_and_gradients(model, batches)


def test_many_frames_are_encoded_in_several_calls(tiny_base, tiny_tokenizer, monkeypatch):
    model = load_model(tiny_base, tiny_tokenizer, CPU)
    visuals = [visual_of(5), visual_of(3), visual_of(4, 3)]
    whole = encode(model, visuals)
    calls = []
    model.model.vision_model.register_forward_pre_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(
        "crashchat.model.videollama3.MAX_PATCHES", 17
    )  # two frames of the smaller size, one of the other
    assert torch.allclose(encode(model, visuals), whole, atol=1e-6) and len(calls) == 4 + 4
