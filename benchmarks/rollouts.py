"""Eight answers drawn to each of two questions on a video, and one policy-gradient step on them: drawing and
learning apart, one prefix for all against the plain way.

plain, drawing      for each question the video is read and encoded, and transformers' own generate draws
                    eight answers
plain, learning     each of the sixteen answers is a sample of its own, read, encoded and run through
shared, drawing     the video is read, encoded and run through once; all sixteen answers are its branches
shared, learning    they are one sequence, with the features that drawing left

Both learn from the same answers, and their gradients are compared.
"""

import sys
import tempfile
from pathlib import Path

import torch
from common import SIZES, Size, make_clip, make_model, make_tokenizer, measure, parser, report
from transformers import VideoLlama3ForConditionalGeneration

from crashchat.data.annotations import Question, VideoQAs
from crashchat.model.lora import base_of
from crashchat.model.packing import pack
from crashchat.model.sequence import Branch, build_sequence
from crashchat.second_stages import ReinforceConfig
from crashchat.tasks import TASKS
from crashchat.training.drawn import answer_lengths, branches_of, lay_out, policy_loss
from crashchat.training.rewards import Judged
from crashchat.training.rollout_data import Asked
from crashchat.training.rollouts import Roller, Rollout
from crashchat.video.reading import read_visual_tokens
from crashchat.video.tokens import VisualTokens, normalise

QUESTIONS = [
    Question(TASKS["crash_localization"].prompt, "3.9 - 5.0 seconds", "crash_localization", 0),
    Question(TASKS["pre_crash_localization"].prompt, "2.6 seconds", "pre_crash_localization", 1),
]


def by_words(answer: Judged) -> float:
    """A reward that differs between nearly all answers of random weights."""
    return (sum(map(ord, answer.text)) % 1000) / 1000


def video_inputs(model, visual: VisualTokens) -> dict:
    """The video as transformers' own forward takes it."""
    return {
        "pixel_values_videos": normalise(visual.pixel_values.to(model.device)).to(model.dtype),
        "video_grid_thw": visual.grid_thw.to(model.device),
        "video_merge_sizes": visual.merge_sizes.to(model.device),
        "video_compression_mask": visual.compression_mask.to(model.device),
    }


def plain_draw(model, tokenizer, clip: Path, size: Size, config: ReinforceConfig) -> None:
    """Drawing in the plain way; the answers are thrown away, since another stream of random numbers drew
    them.
    """
    base = base_of(model).eval()
    base.model.vision_model.config._attn_implementation = "sdpa"
    text = base.model.language_model.config
    attention, text._attn_implementation = text._attn_implementation, "sdpa"
    base.__class__, own = VideoLlama3ForConditionalGeneration, base.__class__
    for question in QUESTIONS:
        visual = read_visual_tokens(str(clip), size.video)
        branch = [Branch(question.text)]
        ids = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, branch).input_ids[None]
        base.generate(
            input_ids=ids.to(base.device),
            attention_mask=torch.ones_like(ids).to(base.device),
            **video_inputs(base, visual),
            do_sample=True,
            num_return_sequences=config.rollouts,
            max_new_tokens=config.max_new_tokens,
            min_new_tokens=config.max_new_tokens,
        )
    base.__class__ = own
    text._attn_implementation = attention


def plain_learn(model, tokenizer, clip: Path, size: Size, config: ReinforceConfig, drawn: Rollout) -> float:
    """Learning from the drawn answers, one sample after the other; gradients add up."""
    base = base_of(model)
    total = sum(answer_lengths([drawn], -1))
    loss_sum = 0.0
    advantages = [value for group in drawn.groups for value in group.advantages or [0.0] * config.rollouts]
    for branch, advantage in zip(branches_of([drawn], -1), advantages, strict=True):
        visual = read_visual_tokens(str(clip), size.video)
        sequence = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, [branch])
        batch = pack([sequence], [visual]).as_dict(base.device)
        losses = model(**batch, temperature=config.temperature).token_losses
        loss = advantage / total * losses.sum()
        loss.backward()
        loss_sum += float(loss.detach())
    return loss_sum


def main() -> int:
    made = parser(__doc__, "python benchmarks/rollouts.py --size cpu")
    made.add_argument("--new-tokens", type=int, default=16, help="tokens of every answer (default 16)")
    made.add_argument("--part", choices=("drawing", "learning"), default="drawing", help="what is timed")
    arguments = made.parse_args()
    size = SIZES[arguments.size]
    tokenizer = make_tokenizer()
    model = make_model(size, tokenizer, adapter=True)
    tokenizer.eos_token_id = None  # no answer ends by itself, in neither way
    config = ReinforceConfig(
        output_dir=Path("unused"),
        max_new_tokens=arguments.new_tokens,
        global_batch_size=0,
        supervised_tasks=[],
    )
    rewards = dict.fromkeys(TASKS, ("by_words", by_words))
    roller = Roller(config, tokenizer, size.video, rewards, {})
    gradients: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(size, Path(folder))
        video = VideoQAs(name=clip.name, path=clip, source=None, questions=QUESTIONS)

        def draw() -> Rollout:
            visual = read_visual_tokens(str(clip), size.video)
            return roller.draw(model, [Asked(video, visual, QUESTIONS, [0, 1])], step=0)[0]

        def learn(drawn: Rollout) -> None:
            lengths = answer_lengths([drawn], -1)
            for one in lay_out(
                [drawn],
                tokenizer,
                config,
                tokens=sum(lengths),
                answers=len(lengths),
                device=base_of(model).device,
            ):
                policy_loss(model, one, config).backward()

        drawn = draw()
        ways = {
            "drawing": {
                "plain": lambda: plain_draw(model, tokenizer, clip, size, config),
                "shared": draw,
            },
            "learning": {
                "plain": lambda: plain_learn(model, tokenizer, clip, size, config, drawn=drawn),
                "shared": lambda: learn(drawn),
            },
        }[arguments.part]
        words = [
            "--size",
            arguments.size,
            "--new-tokens",
            str(arguments.new_tokens),
            "--part",
            arguments.part,
        ]
        figures = measure(ways, arguments, __file__, words)
        if figures is None:
            return 0
        for name, way in ways.items() if arguments.part == "learning" else ():
            model.zero_grad()
            way()
            gradients[name] = torch.cat(
                [p.grad.flatten().float().cpu() for p in model.parameters() if p.grad is not None]
            )
    extra = {
        "part": arguments.part,
        "ratio": figures["plain"]["seconds"] / figures["shared"]["seconds"],
        "visual tokens": drawn.visual.num_kept,
        "answers": sum(len(group.tokens) for group in drawn.groups),
        "new tokens an answer": arguments.new_tokens,
    }
    if gradients:
        difference = (gradients["plain"] - gradients["shared"]).norm() / gradients["plain"].norm()
        extra["gradient difference"] = float(difference)
    report(f"rollouts_{arguments.part}", arguments.size, figures=figures, extra=extra, out=arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
