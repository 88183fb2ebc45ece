"""What the log says of speed: operations are the plan's, cards are known by their drivers' names."""

import pytest

from crashchat.checkpoints.folders import load_model
from crashchat.model.packing import pack
from crashchat.model.sequence import Branch, build_sequence
from crashchat.settings import TrainConfig
from crashchat.training.planning.cost import OperationCounter
from crashchat.training.planning.gpus import gpu_called
from crashchat.training.planning.shapes import QuestionShape, VideoShape
from crashchat.training.speed import Speed
from tests.helpers.models import CPU, visual_of


def test_the_operations_of_a_batch_are_those_of_its_videos(tiny_base, tiny_tokenizer):
    visuals = [visual_of(5, 2), visual_of(3, 4)]
    visuals[0].compression_mask[3:5] = False
    branches = [Branch("Is there a crash?", "Yes"), Branch("What happens?", "A car hits a car.")]
    sequences = [
        build_sequence(tiny_tokenizer, visual.seconds, visual.kept_per_frame, branches[:count])
        for visual, count in zip(visuals, (2, 1), strict=True)
    ]
    batch = pack(sequences, visuals)
    counter = OperationCounter(
        load_model(tiny_base, tiny_tokenizer, CPU).config, TrainConfig(output_dir="out", lora_rank=4)
    )
    expected = 0.0
    counts = iter(batch.label_counts)
    for visual, sequence, columns in zip(visuals, sequences, (2, 4), strict=True):
        prefix = int((sequence.branch_ids == 0).sum())
        own = [int((sequence.branch_ids == number).sum()) for number in (1, 2)]
        answers = [
            QuestionShape(length - answer - 1, (answer,))
            for length in own
            if length
            for answer in [next(counts)]
        ]
        shape = VideoShape(
            frames=len(visual.seconds), rows=1, columns=columns, kept=visual.num_kept,
            text=prefix - visual.num_kept, questions=tuple(answers),
        )  # fmt: skip
        step = counter.step(shape)
        expected += step.total - step.recomputed
    assert counter.of_batch(batch.as_dict()) == pytest.approx(expected)


def test_rates_are_since_the_last_log():
    speed = Speed()
    assert speed.since_last_log() == {}
    speed.count(tokens=100, videos=2, operations=3000)
    with speed.waiting():
        pass
    rates = speed.since_last_log()
    assert rates["tokens_per_second"] == pytest.approx(50 * rates["videos_per_second"], rel=0.01)
    assert 0 <= rates["waiting_for_data"] <= 1 and rates["model_tflops"] > 0
    assert speed.since_last_log() == {}


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80"), ("NVIDIA H200", "h200-141"), ("NVIDIA L40S", "l40s-48"),
        ("NVIDIA GeForce RTX 4090", "rtx4090-24"), ("NVIDIA H100 PCIe", None), ("NVIDIA T4", None),
    ],
)  # fmt: skip
def test_cards_are_known_by_their_drivers_names(device, name):
    found = gpu_called(device)
    assert (found.name if found else None) == name
