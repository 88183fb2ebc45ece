"""Six questions on each of some videos: asked one by one in the plain way, and all at once from the videos' prefixes.

plain     for each question: the video is read, encoded and run through the language model again, by transformers' own generate
shared    each video is read, encoded and run through once; all answers are decoded side by side by crashchat

Both decode greedily a fixed number of tokens an answer (weights are random, so that no answer ends by itself) and must give
the same ones.
"""

import itertools
import sys
import tempfile
from pathlib import Path

import torch
from common import (
    SIZES,
    Size,
    make_clip,
    make_model,
    make_tokenizer,
    median,
    own_peak,
    parser,
    peak_memory,
    report,
    turns,
    write_last_line,
)
from transformers import VideoLlama3ForConditionalGeneration

from crashchat.batches import read_visual_tokens
from crashchat.generate import answer_questions
from crashchat.model import CrashChatModel
from crashchat.sequence import Branch, build_sequence
from crashchat.tasks import TASKS
from crashchat.vision import normalise

QUESTIONS = [task.prompt for task in TASKS.values()]


def plain_answers(model, tokenizer, clips: list[Path], size: Size, most: int) -> list[list[int]]:
    """One question after the other, by transformers' generate with its own key-value cache."""
    model.model.vision_model.config._attn_implementation = "sdpa"
    model.__class__ = VideoLlama3ForConditionalGeneration  # the same weights under transformers' own forward
    answers = []
    for clip, question in itertools.product(clips, QUESTIONS):
        visual = read_visual_tokens(str(clip), size.video)
        ids = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, [Branch(question)]).input_ids[None]
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
    return sum(answer_questions(model, tokenizer, visuals, [QUESTIONS] * len(clips), most), [])


def main() -> int:
    made = parser(__doc__, "python benchmarks/evaluate_video.py --size cpu")
    made.add_argument("--new-tokens", type=int, default=32, help="tokens of every answer (default 32)")
    made.add_argument("--videos", type=int, default=4, help="videos that the shared way answers at once (default 4)")
    arguments = made.parse_args()
    size = SIZES[arguments.size]
    tokenizer = make_tokenizer(size)
    model = make_model(size, tokenizer, adapter=False)
    tokenizer.eos_token_id = None  # no answer ends by itself, in neither way
    answers: dict[str, list[list[int]]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        clips = [make_clip(size, Path(folder))] * arguments.videos

        def run(name, answer) -> None:
            answers[name] = answer(model, tokenizer, clips, size, arguments.new_tokens)

        ways = {"plain": lambda: run("plain", plain_answers), "shared": lambda: run("shared", shared_answers)}
        if arguments.only:
            turns({arguments.only: ways[arguments.only]}, arguments.repeats)
            write_last_line(own_peak())
            return 0
        seconds = turns(ways, arguments.repeats)
        visual = read_visual_tokens(str(clips[0]), size.video)
    words = ["--size", arguments.size, "--new-tokens", str(arguments.new_tokens), "--videos", str(arguments.videos)]
    figures = {
        way: {
            "seconds": median(taken),
            "fastest": min(taken),
            "slowest": max(taken),
            "videos/s": arguments.videos / median(taken),
            "answers/s": arguments.videos * len(QUESTIONS) / median(taken),
            "new tokens/s": arguments.videos * len(QUESTIONS) * arguments.new_tokens / median(taken),
            "peak GiB": peak_memory(__file__, words, way),
        }
        for way, taken in seconds.items()
    }
    pairs = list(zip(sum(answers["plain"], []), sum(answers["shared"], []), strict=True))
    extra = {
        "ratio": median(seconds["plain"]) / median(seconds["shared"]),
        "videos": arguments.videos,
        "visual tokens a video": visual.num_kept,
        "new tokens an answer": arguments.new_tokens,
        "same tokens": f"{sum(a == b for a, b in pairs)} of {len(pairs)}",
    }
    report("evaluate_video", arguments.size, figures, extra, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
