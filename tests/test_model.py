"""The model: the reference's losses, and several questions in one sequence against separate samples."""

import json

import numpy as np
import pytest
import torch

from crashchat.adapters import load_adapter
from crashchat.checkpoints import load_model, load_tokenizer, load_video_settings
from crashchat.generate import answer_questions
from crashchat.masks import dense_mask
from crashchat.model import CrashChatModel, add_adapter, trainable_parameters
from crashchat.packing import pack
from crashchat.sequence import Branch, build_sequence
from crashchat.tasks import TASKS, question_text
from crashchat.vision import VisualTokens
from tests.test_sequence import visual_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reference(shared):
    """(golden values, tokenizer, model, visual tokens) of the reference's tiny checkpoint and video."""
    folder = shared / "golden" / "reference"
    tokenizer = load_tokenizer(folder / "base")
    vision = json.loads((folder / "vision" / "config.json").read_text())
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
        features = model.model.projector(model.encode_videos(visual.pixel_values, visual.grid_thw))
    assert np.abs(features.numpy() - np.load(folder / "projected_features.npy")).max() < 1e-5
    logits = np.load(folder / "logits_last64.npz")
    for case in golden["cases"]:
        branch = Branch(question_text(case["question"]), case["answer"])
        sequence = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, [branch])
        assert len(sequence) == case["compressed_length"]
        assert sequence.labels.tolist() == case["compressed_labels"]
        batch = pack([sequence], [visual], tokenizer.pad_token_id).as_dict()
        with torch.no_grad():
            output = model(**batch)
            kept = model.encode_videos(visual.pixel_values, visual.grid_thw)[visual.compression_mask]
            names = ("input_ids", "position_ids", "branch_ids", "video_ids")
            hidden = model.hidden_states(*(batch[name] for name in names), kept)
        assert abs(float(output.loss_sum / output.num_labels) - case["loss"]) < 1e-5, case["task"]
        assert np.abs(model.lm_head(hidden)[0, -64:].detach().numpy() - logits[f"{case['task']}_0"]).max() < 1e-4
    questions = [question_text(case["question"]) for case in golden["cases"]]
    answers = answer_questions(model, tokenizer, visual, questions, max_new_tokens=24)
    assert answers == [case["generated_ids"] for case in golden["cases"]]


def test_reference_losses_with_its_adapter(reference):
    """The released adapter form, with LoRA on the vision encoder's attention too (see adapters.py)."""
    golden, tokenizer, _, visual, folder = reference
    vision = json.loads((folder / "vision" / "config.json").read_text())
    model = load_adapter(load_model(folder / "base", tokenizer, CPU, vision=vision), folder / "lora")
    for case in golden["cases"]:
        branch = Branch(question_text(case["question"]), case["answer"])
        sequence = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, [branch])
        with torch.no_grad():
            output = model(**pack([sequence], [visual], tokenizer.pad_token_id).as_dict())
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
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def samples(tokenizer) -> list[tuple[VisualTokens, list[Branch]]]:
    """Three videos of different sizes with six, two and one question, tokens dropped from two of them."""
    torch.manual_seed(0)
    texts = ["Yes", "ego-car hits a car", "It brakes late.", "Keep away.", "1.9 - 4.0 seconds", "1.0 seconds"]
    answers = dict(zip(TASKS, texts, strict=True))
    branches = [Branch(task.prompt, answers[name]) for name, task in TASKS.items()]
    long, short, other = visual_of(5, 2), visual_of(3, 2), visual_of(4, 3)
    long.compression_mask[3:5] = False
    other.compression_mask[7] = False
    return [(long, branches), (short, branches[4:]), (other, branches[1:2])]


@pytest.mark.parametrize("row_length", [None, 5000], ids=["a row a video", "all in one row"])
def test_branches_give_the_losses_and_gradients_of_separate_samples(adapted, tiny_tokenizer, row_length):
    videos = samples(tiny_tokenizer)

    def packed(visual, branches):
        return build_sequence(tiny_tokenizer, visual.seconds, visual.kept_per_frame, branches)

    pad = tiny_tokenizer.pad_token_id
    together = [pack([packed(*video) for video in videos], [visual for visual, _ in videos], pad, row_length)]
    apart = [pack([packed(visual, [branch])], [visual], pad) for visual, branches in videos for branch in branches]
    loss, gradients = loss_and_gradients(adapted, together)
    expected_loss, expected = loss_and_gradients(adapted, apart)
    assert abs(loss - expected_loss) < 1e-5
    assert gradients.keys() == expected.keys() and len(gradients) > 40
    assert max(float((gradients[name] - expected[name]).abs().max()) for name in expected) < 1e-5


def test_a_leak_between_branches_is_caught(adapted, tiny_tokenizer, monkeypatch):
    """The check above must be able to fail: a mask that lets branches see each other changes the loss."""
    visual, branches = samples(tiny_tokenizer)[0]
    sequence = build_sequence(tiny_tokenizer, visual.seconds, visual.kept_per_frame, branches)
    batch = pack([sequence], [visual], tiny_tokenizer.pad_token_id)
    right, _ = loss_and_gradients(adapted, [batch])
    monkeypatch.setattr("crashchat.model.dense_mask", lambda videos, branch_ids: dense_mask(videos, branch_ids * 0))
    leaking, _ = loss_and_gradients(adapted, [batch])
    assert abs(leaking - right) > 1e-3


def test_frozen_and_trained_parts(adapted):
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "modules_to_save.default.readout" in name for name in trained)
    layers = adapted.get_base_model().config.text_config.num_hidden_layers
    assert len([name for name in trained if "lora_" in name]) == layers * 7 * 2
    assert len([name for name in trained if "readout" in name]) == 4
    assert not any("vision_model" in name or "lm_head" in name for name in trained)


def test_trained_parameters_of_the_7b_recipe():
    from transformers import VideoLlama3Config

    from crashchat.layouts import SO400M

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
    from crashchat.batches import read_visual_tokens

    model = load_model(tiny_base, tiny_tokenizer, CPU)
    settings = load_video_settings(tiny_base)
    clip = sorted((tiny_data / "videos").iterdir())[0]
    visual = read_visual_tokens(str(clip), settings)
    questions = [task.prompt for task in TASKS.values()]
    together = answer_questions(model, tiny_tokenizer, visual, questions, max_new_tokens=32)
    apart = [answer_questions(model, tiny_tokenizer, visual, [question], 32)[0] for question in questions]
    assert together == apart
