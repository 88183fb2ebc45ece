"""Pairs of answers: exact against separate samples, the same on one process and two, and what is no pair is
named.
"""

import json

import pytest
import torch

from crashchat.checkpoints.folders import load_model, load_video_settings
from crashchat.checkpoints.model_card import read_card
from crashchat.data.annotations import AnnotationError
from crashchat.data.pairs import load_pairs
from crashchat.model.lora import add_adapter
from crashchat.model.packing import pack
from crashchat.model.sequence import build_sequence
from crashchat.training.preferences import PairDataset, by_how_much, preference_losses
from tests.helpers.commands import adapter, distance, forked
from tests.helpers.models import CPU
from tests.helpers.pairs import TASK, write_pairs

SETTINGS = [
    "with=configs/train/tiny_model.yaml", "max_steps=4", "eval_steps=2", "save_steps=2",
    "global_batch_size=6", "beta=1", "logging_steps=1", "learning_rate=5e-4",
    "projector_learning_rate=5e-4", "lora_dropout=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return [write_pairs(tiny_data, folder / f"{split}.json", split) for split in ("train", "val")]


def prefer(tiny_data, pairs, start, out, processes: int, *more: str) -> str:
    files = f"annotation_files={{train: [{pairs[0]}], val: [{pairs[1]}]}}"
    words = [*SETTINGS, f"data_dir={tiny_data}", f"adapter={start}", f"output_dir={out}", files, *more]
    return forked("prefer", "configs/train/preferences.yaml", *words, processes=processes)


def test_two_branches_give_the_loss_and_gradients_of_two_samples(tiny_data, pairs, tiny_base, tiny_tokenizer):
    videos = load_pairs(pairs[:1], tiny_data)
    dataset = PairDataset(videos, tiny_tokenizer, load_video_settings(tiny_base), max_length=4096)
    model = add_adapter(
        load_model(tiny_base, tiny_tokenizer, CPU).requires_grad_(False), rank=4, alpha=8, dropout=0.0
    )
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = torch.tensor([0.5, -1.0])
    (one,) = dataset.__getitems__([dataset.numbers[0][0], dataset.numbers[1][0]]).passes
    assert len(one.batch.label_counts) == 4 and sum(one.batch.label_counts) == len(one.batch.label_index)
    model.zero_grad()
    together = preference_losses(by_how_much(model, one.batch.as_dict()), before, 0.3).sum()
    together.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    apart = 0.0
    for video, start in zip(videos[:2], before, strict=True):
        visual = dataset._visual(videos.index(video))
        sums = []
        for branch in dataset.branches(video.questions):
            sequence = build_sequence(tiny_tokenizer, visual.seconds, visual.kept_per_frame, [branch])
            sums.append(-model(**pack([sequence], [visual]).as_dict()).loss_sum)
        loss = -torch.nn.functional.logsigmoid(0.3 * (sums[0] - sums[1] - start))
        loss.backward()
        apart += float(loss.detach())
    assert float(together.detach()) == pytest.approx(apart, abs=1e-5)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys() and len(expected) > 40
    assert max(float((gradients[name] - expected[name]).abs().max()) for name in expected) < 1e-5


def test_a_run_prefers_the_better_answers_on_one_process_and_two(trained, tiny_data, pairs, tmp_path):
    output = prefer(tiny_data, pairs, trained, tmp_path / "one", 1)
    assert "each of 6 pairs" in output and "best validation loss" in output
    log = json.loads((tmp_path / "one" / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    losses = [record["eval_loss"] for record in log if "eval_loss" in record]
    assert losses[-1] < 0.6 < 0.6932  # at the start it is log 2
    assert adapter(tmp_path / "one").keys() == adapter(trained).keys()
    card = read_card(tmp_path / "one")
    assert card.settings["beta"] == 1 and card.settings["start"] == "trained"
    prefer(tiny_data, pairs, trained, tmp_path / "two", 2, "max_tokens_per_batch=1500")
    assert distance(tmp_path / "one", tmp_path / "two") < 2e-4


def test_what_is_no_pair_is_named(tiny_data, tmp_path):
    good = write_pairs(tiny_data, tmp_path / "good.json", "val")
    records = json.loads(good.read_text())
    (pair,) = load_pairs([good], tiny_data)[0].questions
    assert pair.rejected == "nothing can be seen." and pair.task == TASK.name
    first = records[0]
    for spoilt, said in (
        ({**first, "rejected": 3}, "'rejected' is 3, expected a text"),
        ({**first, "rejected": " "}, "expected a text"),
        ({**first, "rejected": first["conversations"][1]["value"]}, "both answers are"),
        ({key: value for key, value in first.items() if key != "video"}, "record 1"),
    ):
        path = tmp_path / "bad.json"
        path.write_text(json.dumps([records[1], spoilt]))
        with pytest.raises(AnnotationError, match=said):
            load_pairs([path], tiny_data)
