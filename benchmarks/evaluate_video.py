"""Six questions on each of some videos: asked one by one in the plain way,
and all at once from the videos' prefixes.

plain     for each question: the video is read, encoded and run through the language model again, by
transformers' own generate shared    each video is read, encoded and run through once; all answers are decoded
side by side by crashchat

Both decode greedily a fixed number of tokens an answer (weights are random, so that no answer ends by itself)
and must give the same ones.
"""

import itertools
import sys
import tempfile
from pathlib import Path

import torch
from common import SIZES, Size, make_clip, make_model, make_tokenizer, measure, parser, report
from transformers import VideoLlama3ForConditionalGeneration

from crashchat.answering.generate import answer_questions
from crashchat.model.sequence import Branch, build_sequence
from crashchat.model.videollama3 import CrashChatModel
from crashchat.tasks import TASKS
from crashchat.video.reading import read_visual_tokens
from crashchat.video.tokens import normalise

QUESTIONS = [task.prompt for task in TASKS.values()]


def plain_answers(model, tokenizer, clips: list[Path], size: Size, most: int) -> list[list[int]]:
    """One question after the other, by transformers' generate with its own key-value cache."""
    model.model.vision_model.config._attn_implementation = "sdpa"
    model.__class__ = VideoLlama3ForConditionalGeneration  # the same weights under transformers' own forward
    answers = []
    for clip, question in itertools.product(clips, QUESTIONS):
        visual = read_visual_tokens(str(clip), size.video)
        ids = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, [Branch(question)]).input_ids[
            None
        ]
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=torch.ones_like(ids).to(model.device),
            pixel_values_videos=normalise(visual.pixel_values.to(model.device)).to(model.dtype),
            video_grid_thw=visual.grid_thw.to(model.device),
            video_merge_sizes=visual.merge_sizes.to(model.device),
            video_compression_mask=visual.compression_mask.to(model.device),
            max_new_tokens=most,
            do_sample=False,
        )
        answers.append(output[0, ids.shape[1] :].tolist())
    model.__class__ = CrashChatModel
    return answers


def shared_answers(model, tokenizer, clips: list[Path], size: Size, most: int) -> list[list[int]]:
    """All questions at once."""
    visuals = [read_visual_tokens(str(clip), size.video) for clip in clips]
    return sum(
        answer_questions(
            model, tokenizer, visuals=visuals, questions=[QUESTIONS] * len(clips), max_new_tokens=most
        ),
        [],
    )


def main() -> int:
    made = parser(__doc__, "python benchmarks/evaluate_video.py --size cpu")
    made.add_argument("--new-tokens", type=int, default=32, help="tokens of every answer (default 32)")
    made.add_argument(
        "--videos", type=int, default=4, help="videos that the shared way answers at once (default 4)"
    )
    arguments = made.parse_args()
    size = SIZES[arguments.size]
    tokenizer = make_tokenizer()
    model = make_model(size, tokenizer, adapter=False)
    tokenizer.eos_token_id = None  # no answer ends by itself, in neither way
    answers: dict[str, list[list[int]]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        clips = [make_clip(size, Path(folder))] * arguments.videos

        def run(name, answer) -> None:
            answers[name] = answer(model, tokenizer, clips, size, arguments.new_tokens)

        ways = {"plain": lambda: run("plain", plain_answers), "shared": lambda: run("shared", shared_answers)}
        words = [
            "--size",
            arguments.size,
            "--new-tokens",
            str(arguments.new_tokens),
            "--videos",
            str(arguments.videos),
        ]
        figures = measure(ways, arguments, __file__, words)
        if figures is None:
            return 0
        visual = read_visual_tokens(str(clips[0]), size.video)
    for values in figures.values():
        values["videos/s"] = arguments.videos / values["seconds"]
        values["answers/s"] = values["videos/s"] * len(QUESTIONS)
        values["new tokens/s"] = values["answers/s"] * arguments.new_tokens
    pairs = list(zip(sum(answers["plain"], []), sum(answers["shared"], []), strict=True))
    extra = {
        "ratio": figures["plain"]["seconds"] / figures["shared"]["seconds"],
        "videos": arguments.videos,
        "visual tokens a video": visual.num_kept,
        "new tokens an answer": arguments.new_tokens,
        "same tokens": f"{sum(a == b for a, b in pairs)} of {len(pairs)}",
    }
    report("evaluate_video", arguments.size, figures=figures, extra=extra, out=arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
