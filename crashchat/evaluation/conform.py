r"""Hold an engine against ours: the same clips and questions, answered greedily, token by token.

    crashchat convert outputs/demo/merged/heterogeneous outputs/vllm --to vllm
    bash scripts/engine.sh outputs/vllm
    crashchat conform data/demo/videos --model outputs/demo/merged/heterogeneous --exported outputs/vllm

Two adapters, exported with their base (crashchat convert BASE outputs/two --to vllm --adapters A B):

    crashchat conform data/demo/videos --model BASE --linguistic A --perception B --exported outputs/two

Both are given the same frames, six questions a clip. Where two answers differ, their first difference is
told, with the probabilities that both engines give to both tokens: of a near tie rounding decides, of
anything else the engine computes another model, or sees another video. Exit code: 0 all tokens equal, 1 not
all, 2 nothing could be held against anything.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from crashchat.answering.answerer import Asked
from crashchat.answering.engines import Engine, VideoContext
from crashchat.answering.loading import open_engine
from crashchat.answering.vllm import EngineError
from crashchat.checkpoints.engine_export import ADAPTERS
from crashchat.checkpoints.folders import load_video_settings
from crashchat.checkpoints.layouts import CheckpointError
from crashchat.command import make_parser
from crashchat.errors import exit_code
from crashchat.evaluation_settings import ENGINE_ADDRESS, EvalConfig
from crashchat.tasks import TASKS
from crashchat.video.reading import read_visual_tokens
from crashchat.video.source import VideoError
from crashchat.video.tokens import VideoSettings

CLIPS = "*.mp4"


class Difference(NamedTuple):
    """Where two answers to one question part.

    begun: the tokens that both begin with. tokens: ours, theirs; the closing one where an answer ends there.
    ours, theirs: what each engine gives to the two, as probabilities.
    """

    task: str
    begun: list[int]
    tokens: tuple[int, int]
    ours: list[float]
    theirs: list[float]


def differences(
    engines: tuple[Engine, Engine],
    path: Path,
    *,
    settings: VideoSettings,
    closing: int,
    groups: Mapping[str | None, Sequence[str]],
) -> Iterator[Difference]:
    """Where an engine's answers to the six questions on a clip part from ours. Raises VideoError.

    engines: ours, theirs. closing: the token that ends an answer. groups: {adapter: the tasks it is asked}.
    """
    visual = read_visual_tokens(str(path), settings)
    # Each its own: what one has seen the other must see by itself.
    both = [(engine, VideoContext([visual])) for engine in engines]
    for adapter, names in groups.items():
        questions = [Asked.of(name).text for name in names]
        (expected,), (found,) = (
            engine.answer(context, [questions], adapter=adapter, constraints=None) for engine, context in both
        )
        for task, question, us, them in zip(names, questions, expected, found, strict=True):
            one, other = us.tokens, them.tokens
            if one == other:
                continue
            pairs = enumerate(zip(one, other, strict=False))
            at = next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))
            tokens = tuple((answer[at:] or [closing])[0] for answer in (one, other))
            left, right = (
                engine.likelihoods(context, question, adapter, begun=one[:at], tokens=list(tokens))
                for engine, context in both
            )
            yield Difference(task, one[:at], (tokens[0], tokens[1]), ours=left, theirs=right)


def conform(
    clips: list[Path],
    model: Path,
    exported: Path,
    *,
    address: str,
    max_new_tokens: int,
    adapters: Sequence[Path] = (),
) -> tuple[int, int]:
    """Hold the engine at `address` against the model on some clips, told on stdout.

    adapters: of the model, for the linguistic and the other tasks, exported under their names. Returns
    (answers, how many of them differ). Raises EngineError, CheckpointError, VideoError.
    """
    settings, theirs_settings = load_video_settings(model), load_video_settings(exported)
    if settings != theirs_settings:
        raise EngineError(
            f"{exported}: takes its frames by {theirs_settings}, expected {settings}, as {model} does; "
            "convert it again"
        )
    own = dict(zip(TASKS.groups, adapters, strict=True)) if adapters else {}
    served = {name: exported / ADAPTERS / folder.resolve().name for name, folder in own.items()}
    theirs, _ = open_engine(exported, served, max_new_tokens=max_new_tokens, address=address)
    ours, tokenizer = open_engine(model, own, max_new_tokens=max_new_tokens)
    groups: dict[str | None, tuple[str, ...]] = {None: tuple(TASKS)}
    if own:
        groups = {name: TASKS.groups[name] for name in own}
    count = 0
    for path in tqdm(clips, desc="clips", file=sys.stderr):
        for one in differences(
            (ours, theirs), path, settings=settings, closing=tokenizer.eos_token_id, groups=groups
        ):
            count += 1
            words = [repr(tokenizer.decode([token])) for token in one.tokens]
            begun = tokenizer.decode(one.begun)
            print(
                f"{path}: {one.task}: after {len(one.begun)} equal tokens ({begun!r}) ours goes on with "
                f"{words[0]} and the engine with {words[1]}; ours gives them "
                f"{one.ours[0]:.4f} and {one.ours[1]:.4f}, the engine {one.theirs[0]:.4f} and "
                f"{one.theirs[1]:.4f}"
            )
    return len(clips) * len(TASKS), count


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("conform", __doc__)
    parser.add_argument("clips", nargs="+", type=Path, help=f"video files, or folders of {CLIPS}")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="the merged model")
    parser.add_argument(
        "--linguistic", type=Path, metavar="DIR", help="adapter on it that answers the linguistic tasks"
    )
    parser.add_argument("--perception", type=Path, metavar="DIR", help="adapter on it that localizes")
    parser.add_argument(
        "--exported", type=Path, required=True, metavar="DIR", help="what convert --to vllm made of it"
    )
    parser.add_argument(
        "--engine-address", metavar="URL", default=ENGINE_ADDRESS, help="(default %(default)s)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=EvalConfig.model_fields["max_new_tokens"].default,
        help="tokens of an answer at most (default %(default)s)",
    )
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit code."""

    def held() -> int:
        adapters = [path for path in (arguments.linguistic, arguments.perception) if path]
        if len(adapters) == 1:
            raise CheckpointError("a linguistic and a perception adapter belong together; name both")
        clips = [
            path
            for word in arguments.clips
            for path in (sorted(word.rglob(CLIPS)) if word.is_dir() else [word])
        ]
        if not clips:
            raise VideoError(arguments.clips[0], f"no {CLIPS} in it")
        answers, different = conform(
            clips,
            arguments.model,
            arguments.exported,
            address=arguments.engine_address,
            max_new_tokens=arguments.max_new_tokens,
            adapters=adapters,
        )
        print(f"{answers - different} of {answers} answers on {len(clips)} clips have the same tokens")
        return 1 if different else 0

    return exit_code(held, failed=2)
