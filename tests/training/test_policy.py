"""Learning from drawn answers: exact against separate samples; rewards, advantages, weights, and the order
of videos.
"""

import pytest
import torch

from crashchat.checkpoints.folders import load_model, load_video_settings
from crashchat.config import ConfigError, load_config
from crashchat.data.annotations import annotation_paths, load_annotations
from crashchat.model.lora import add_adapter
from crashchat.model.packing import pack
from crashchat.model.sequence import build_sequence, image_token_id
from crashchat.second_stages import ReinforceConfig
from crashchat.tasks import TASKS
from crashchat.training.batches import as_model_input
from crashchat.training.drawn import answer_lengths, branches_of, lay_out, policy_loss
from crashchat.training.policy import advantages_of, clipped, divergence, token_weights
from crashchat.training.reinforce_trainer import make_roller
from crashchat.training.rewards import Judged, RewardError, reward_named, value_of
from crashchat.training.rollout_data import RolloutDataset, RolloutSampler
from crashchat.training.rollouts import figures_of
from crashchat.training.setup import load_videos
from tests.helpers.models import CPU

TIMES = ("crash_localization", "pre_crash_localization")


def by_length(answer: Judged) -> float:
    """A reward that differs between most answers of a model that knows nothing."""
    return len(answer.text) / 1000


@pytest.fixture
def world(tiny_data, tiny_base, tiny_tokenizer):
    """(model with an adapter that is not zero, data set, config, roller)."""
    config = ReinforceConfig(
        output_dir="unused",
        rollouts=4,
        max_new_tokens=8,
        global_batch_size=0,
        rewards=dict.fromkeys(TIMES, f"{__name__}:by_length"),
    )
    model = load_model(tiny_base, tiny_tokenizer, CPU).requires_grad_(False)
    model = add_adapter(model, rank=4, alpha=8, dropout=0.0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    videos = load_annotations(annotation_paths(tiny_data, TASKS, "train"), tiny_data)
    settings = load_video_settings(tiny_base)
    dataset = RolloutDataset(
        videos, tiny_tokenizer, settings, max_length=4096, cache_videos=9, rewarded=frozenset(TIMES)
    )
    return model, dataset, config, make_roller(config, tiny_tokenizer, settings, videos)


@pytest.mark.parametrize("weighting", ["token", "answer", "constant"])
def test_the_gradient_is_that_of_plain_policy_gradient_on_separate_samples(world, tiny_tokenizer, weighting):
    model, dataset, config, roller = world
    config = config.model_copy(update={"token_weighting": weighting, "temperature": 0.8})
    roller.config = config
    rewarded, _ = dataset.split()
    asked = dataset.__getitems__(sum(rewarded[:2], [])).asked
    rollouts = roller.draw(model, asked, step=3)
    assert [len(rollout.groups) for rollout in rollouts] == [2, 2]
    closing = tiny_tokenizer.eos_token_id
    lengths = answer_lengths(rollouts, closing)
    passes = lay_out(rollouts, tiny_tokenizer, config, tokens=sum(lengths), answers=len(lengths), device=CPU)
    model.zero_grad()
    policy_loss(model, passes[0], config).backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    # The probabilities at drawing are those in learning.
    drawn = [
        value for rollout in rollouts for group in rollout.groups for own in group.log_probs for value in own
    ]
    assert passes[0].before.tolist() == pytest.approx(drawn, abs=1e-4)

    model.zero_grad()
    total = sum(lengths) if weighting == "token" else len(lengths)
    for rollout in rollouts:
        branches = branches_of([rollout], closing)
        advantages = [value for group in rollout.groups for value in group.advantages]
        for branch, advantage in zip(branches, advantages, strict=True):
            visual = rollout.visual
            sequence = build_sequence(tiny_tokenizer, visual.seconds, visual.kept_per_frame, [branch])
            losses = model(**pack([sequence], [visual]).as_dict(), temperature=0.8).token_losses
            weight = {"token": 1, "answer": 1 / len(losses), "constant": 1 / config.max_new_tokens}[weighting]
            (advantage * weight / total * losses.sum()).backward()
    apart = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert together.keys() == apart.keys() and len(apart) > 40
    assert max(float((together[name] - apart[name]).abs().max()) for name in apart) < 1e-5
    assert max(float(gradient.abs().max()) for gradient in apart.values()) > 1e-3


def test_a_drawn_answer_may_hold_the_token_of_the_frames(world, tiny_tokenizer):
    """It is learnt as it was drawn: with its own embedding, and no part of the video in its place."""
    model, dataset, config, roller = world
    image = image_token_id(tiny_tokenizer)
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head[image] = head[tiny_tokenizer.encode(" seconds", add_special_tokens=False)[0]]
    asked = dataset.__getitems__(dataset.split()[0][0]).asked
    rollouts = roller.draw(model, asked, step=0)
    answers = [
        (tokens, own)
        for group in rollouts[0].groups
        for tokens, own in zip(group.tokens, group.log_probs, strict=True)
    ]
    assert any(image in tokens[:-1] for tokens, _ in answers)
    lengths = answer_lengths(rollouts, tiny_tokenizer.eos_token_id)
    (one,) = lay_out(rollouts, tiny_tokenizer, config, tokens=sum(lengths), answers=len(lengths), device=CPU)
    policy_loss(model, one, config).backward()
    assert one.before.tolist() == pytest.approx([value for _, own in answers for value in own], abs=1e-4)


def test_only_videos_that_are_asked_are_validated(tiny_data):
    settings = {"output_dir": "unused", "data_dir": tiny_data, "supervised_tasks": ["crash_recognition"]}
    for seed in range(5):
        (video,) = load_videos(ReinforceConfig(**settings, val_videos=1, seed=seed), "val")
        assert {question.task for question in video.questions} == {*TIMES}
    assert len(load_videos(ReinforceConfig(**settings), "train")) == 6


def test_draws_depend_on_step_question_and_turn_alone(world):
    model, dataset, _, roller = world
    rewarded, _ = dataset.split()
    both = dataset.__getitems__(sum(rewarded[:2], [])).asked
    together = roller.draw(model, both, step=5)
    alone = roller.draw(model, both[1:], step=5)
    assert [group.tokens for group in together[1].groups] == [group.tokens for group in alone[0].groups]
    other = roller.draw(model, both[1:], step=6)
    assert [group.tokens for group in other[0].groups] != [group.tokens for group in alone[0].groups]
    validated = roller.draw(model, both, step=None)
    groups = [group.tokens for rollout in validated for group in rollout.groups]
    assert [len(tokens) for tokens in groups] == [roller.config.rollouts] * 4
    again = roller.draw(model, both, step=None)
    assert [group.tokens for rollout in again for group in rollout.groups] == groups
    assert figures_of(together)["distinct"][1] == 4
    assert model.training  # as before


def test_a_fetch_has_questions_to_draw_for_and_packed_ones(world):
    _, dataset, _, _ = world
    rewarded, others = dataset.split()
    inputs = as_model_input(dataset.__getitems__(rewarded[0] + others[1]))
    assert [one.numbers for one in inputs["asked"]] == [rewarded[0]]
    assert len(inputs["batches"]) == 1 and int(inputs["batches"][0]["branch_ids"].max()) == len(others[1])
    assert as_model_input(dataset.__getitems__([]))["batches"] == []


def test_every_process_has_its_share_of_each_step(world):
    _, dataset, config, _ = world
    rewarded, others = dataset.split()
    config = config.model_copy(update={"videos_per_step": 2, "global_batch_size": 6, "updates": 2})
    samplers = [RolloutSampler(rewarded, others, config, rank, 2) for rank in (0, 1)]
    steps = list(zip(*samplers, strict=True))
    assert len(steps) == len(samplers[0]) == -(-len(rewarded) // 2) * 2
    (whole,) = [list(RolloutSampler(rewarded, others, config, 0, 1))]
    for shares, together in zip(steps, whole, strict=True):
        assert sorted(sum(shares, [])) == sorted(together)
    assert [bool(step) for step in whole] == [True, False] * (len(whole) // 2)
    drawn = [number for step in whole for number in step if number in sum(rewarded, [])]
    assert set(drawn) == set(sum(rewarded, []))


def test_no_process_is_without_a_question(world):
    _, dataset, config, _ = world
    rewarded, _ = dataset.split()
    alone = [group[:1] for group in rewarded]
    config = config.model_copy(
        update={"videos_per_step": 1, "global_batch_size": 0, "dynamic_sampling": True}
    )
    samplers = [RolloutSampler(alone, [], config, rank, 2) for rank in (0, 1)]
    for sampler in samplers:  # the next epoch has a single video left to teach
        sampler.note((video, video == 0) for video in range(len(alone)))
        sampler.set_epoch(1)
    for shares in zip(*samplers, strict=True):
        assert [len(share) for share in shares] == [1, 1] and alone[0] in shares
    with pytest.raises(
        ConfigError, match="found 1 questions of tasks=.*, expected one for each of 2 processes"
    ):
        RolloutSampler(alone[:1], [], config, 0, 2)


def test_videos_that_taught_nothing_are_left_out_of_the_next_epoch(world):
    _, dataset, config, _ = world
    rewarded, _ = dataset.split()
    config = config.model_copy(update={"videos_per_step": 1, "dynamic_sampling": True})
    sampler = RolloutSampler(rewarded, [], config, 0, 1)
    sampler.note([(0, False), (0, False), (1, False), (1, True)])
    again = RolloutSampler(rewarded, [], config, 0, 1)
    again.restore(sampler.state())
    again.set_epoch(0)
    assert again.solved == set()
    for one in (sampler, again):
        one.set_epoch(1)
        asked = set(sum(one, []))
        assert not asked & set(rewarded[0]) and asked >= set(rewarded[1])


def test_advantages_weights_and_clipping():
    assert advantages_of([0.2, 0.2, 0.2], scaled=True) is None
    assert advantages_of([0.0, 1.0], scaled=True) == [-1.0, 1.0]
    assert advantages_of([0.0, 1.0], scaled=False) == [-0.5, 0.5]
    assert token_weights([2, 4], "token", 8).tolist() == [1, 1]
    assert token_weights([2, 4], "answer", 8).tolist() == [0.5, 0.25]
    assert token_weights([2, 4], "constant", 8).tolist() == [0.125, 0.125]
    log_probs = torch.tensor([0.5, 0.5, -0.5, -0.5]).requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    clipped(log_probs, torch.zeros(4), advantages, 0.2, 0.28).sum().backward()
    # Beyond the bounds only what would make things worse still counts.
    assert [value != 0 for value in log_probs.grad.tolist()] == [False, True, True, False]
    assert float(divergence(torch.zeros(1), torch.zeros(1))) == 0
    assert min(divergence(torch.tensor([0.0, 0.0]), torch.tensor([0.3, -0.3])).tolist()) > 0


def judged(task: str, text: str, answer: str, **more) -> Judged:
    return Judged(task, text, TASKS[task].parse(text), TASKS[task].ground_truth(answer), 10.0, **more)


@pytest.mark.parametrize(
    ("name", "task", "text", "answer", "expected"),
    [
        ("interval_overlap", "crash_localization", "1.0 - 2.0 seconds", "1.0 - 3.0 seconds", 0.5),
        ("interval_overlap", "crash_localization", "no idea", "1.0 - 3.0 seconds", -0.1),
        ("interval_closeness", "crash_localization", "2.0 - 3.0 seconds", "1.0 - 2.0 seconds", 0.3679),
        ("interval_closeness", "crash_localization", "1.0 - 3.0 seconds", "1.5 - 2.5 seconds", 0.7788),
        ("first_sign", "pre_crash_localization", "2.0 seconds", "2.5 seconds", 0.3679),
        ("correct", "crash_recognition", "Yes", "Yes", 1.0),
        ("correct", "crash_recognition", "No", "Yes", 0.0),
        ("correct", "crash_recognition", "maybe", "Yes", -0.1),
        ("text_overlap", "crash_description", "car hits a car", "car hits a car", 1.0),
        ("text_overlap", "crash_description", "No collision", "no collision.", 1.0),
        ("text_overlap", "crash_description", "car hits a car", "no collision.", 0.0),
        ("closed_set", "crash_description", "the car hits a big truck", "car hits a truck", 1.0),
        ("closed_set", "crash_description", "car hits a car", "car hits a truck", 0.0),
    ],
)
def test_rewards(name, task, text, answer, expected):
    known = ("car hits a car", "car hits a truck")
    assert value_of(name, reward_named(name), judged(task, text, answer, known=known)) == pytest.approx(
        expected, abs=1e-3
    )


def test_the_first_sign_is_scored_by_time_to_accident_where_the_crash_is_known():
    answer = judged("pre_crash_localization", "2.0 seconds", "2.5 seconds", crash_start=4.0)
    assert value_of("first_sign", reward_named("first_sign"), answer) == pytest.approx(
        (1 + 0.3679) / 2, abs=1e-3
    )
    assert judged("pre_crash_localization", "12.0 seconds", "2.5 seconds").outside and not answer.outside


def test_rewards_of_ones_own_are_checked():
    assert reward_named(f"{__name__}:by_length") is by_length
    for name, said in (
        ("iou", "expected module:function"),
        ("math:nothing", "no attribute"),
        ("math:pi", "no function"),
    ):
        with pytest.raises(RewardError, match=said):
            reward_named(name)
    with pytest.raises(RewardError, match="gave 7"):
        value_of("mine", lambda answer: 7, judged("crash_recognition", "Yes", "Yes"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["supervised_tasks=crash_localization"], "both name crash_localization"),
        (["global_batch_size=0", "supervised_tasks=crash_recognition"], "give both"),
        (["finetune=full"], "trains an adapter"),
        (["deepspeed=configs/deepspeed/zero3.json"], "ZeRO-3"),
        (["rewards={crash_recognition: correct}"], "is none of tasks"),
        (["eval_steps=3", "save_steps=3", "updates=2"], "not a multiple of updates"),
    ],
)
def test_contradictions_are_errors(words, said):
    with pytest.raises(ConfigError, match=said):
        load_config(ReinforceConfig, None, ["output_dir=x", "supervised_tasks=crash_recognition", *words])
