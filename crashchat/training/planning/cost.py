"""What a run computes, and how long that takes at a stated rate.

Operations are multiplications and additions. For W weights and T tokens a linear layer needs 2 W T forward,
2 W T for the gradient of its input and 2 W T for that of its weights, which a frozen one does not need.
Attention needs 4 h a pair of a token and one that it sees (h: all heads' width) forward, and 2.5 times that
backward, where a flash kernel computes the scores again. Gradient checkpointing repeats the language model's
layers forward.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from transformers import VideoLlama3Config

from crashchat.checkpoints.configs import text_and_vision
from crashchat.checkpoints.folders import MERGE_SIZE
from crashchat.model.attention import stems_of
from crashchat.settings import TrainConfig
from crashchat.training.planning.gpus import GB, NETWORK, Gpu
from crashchat.training.planning.shapes import Pass, QuestionShape, VideoShape

FLASH_BACKWARD = 2.5
BFLOAT16 = 2  # bytes of a weight


@dataclass(frozen=True)
class Operations:
    """Of some passes, by what they are for."""

    vision: float = 0.0
    forward: float = 0.0
    recomputed: float = 0.0
    backward: float = 0.0
    trained: float = 0.0  # LoRA and the projector, forward and backward
    drawing: float = 0.0  # answers to learn from: prefixes, prompts and tokens, forward
    start: float = 0.0  # the model as it was at the start, forward

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self.parts().values())

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(
            *(a + b for a, b in zip(self.parts().values(), other.parts().values(), strict=True))
        )

    def parts(self) -> dict[str, float]:
        """{what for: operations}"""
        return dict(vars(self))


def pairs_of(video: VideoShape) -> float:
    """Pairs of a token and one that it sees: a prefix is causal in itself, a branch sees it, its stem and
    itself.
    """
    prefix = video.prefix
    parts = [part for question in video.questions for part in question.parts]
    behind = sum((prefix + stem) * tokens + tokens * (tokens + 1) / 2 for tokens, stem, _ in parts)
    return prefix * (prefix + 1) / 2 + behind


def shapes_in(batch: dict) -> list[VideoShape]:
    """The videos of a packed batch (model/packing.py), without what the encoder saw of them."""
    shapes: list[VideoShape] = []
    counts = iter(batch["label_counts"])
    stems = stems_of(batch["segments"])
    for segment in batch["segments"]:
        length = segment.own.stop - segment.own.start
        if not segment.seen:
            shapes.append(VideoShape(frames=0, rows=0, columns=0, kept=0, text=length))
            continue
        before = shapes[-1].questions
        if segment.own in stems:
            found = QuestionShape(length + 1, ())
        elif len(segment.seen) > 1:
            answer, asked, before = next(counts), before[-1], before[:-1]
            found = QuestionShape(asked.tokens, (*asked.answers, answer), closing=length - 1 - answer)
        else:
            answer = next(counts)
            found = QuestionShape(length - answer - 1, (answer,))
        shapes[-1] = replace(shapes[-1], questions=(*before, found))
    return shapes


class OperationCounter:
    """Operations of a run's passes. sizes: of the base model. config: what is trained, and how."""

    def __init__(self, sizes: VideoLlama3Config, config: TrainConfig):
        text, vision = text_and_vision(sizes)
        hidden, self.layers = text.hidden_size, text.num_hidden_layers
        heads = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
        self.width = heads * text.num_attention_heads
        narrow, inner = heads * text.num_key_value_heads, text.intermediate_size
        linear = {
            "q_proj": (hidden, self.width), "k_proj": (hidden, narrow), "v_proj": (hidden, narrow),
            "o_proj": (self.width, hidden), "gate_proj": (hidden, inner), "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }  # fmt: skip
        self.weights = self.layers * sum(one * other for one, other in linear.values())
        self.whole = config.finetune == "full"
        rank = 0 if self.whole else config.lora_rank
        self.lora = rank * self.layers * sum(sum(linear[name]) for name in config.lora_targets)
        self.head = hidden * text.vocab_size
        self.projector = vision.hidden_size * hidden + hidden * hidden
        self.wide, self.deep = vision.hidden_size, vision.num_hidden_layers
        pair = self.wide + vision.intermediate_size
        self.encoder = self.deep * (4 * self.wide**2 + 2 * self.wide * vision.intermediate_size)
        self.encoder += 3 * vision.patch_size**2 * self.wide
        self.vision_lora = rank * self.deep * (8 * self.wide + 2 * pair) if config.lora_on_vision else 0
        # The share of the layers that are run again: every n-th, counted from the encoder's first on.
        every = config.checkpoint_every_n_layers if config.gradient_checkpointing else 0
        again = [every > 0 and index % every == 0 for index in range(self.deep + self.layers)]
        self.vision_again = mean(map(int, again[: self.deep]))
        self.again = mean(map(int, again[self.deep :]))

    def forward(self, video: VideoShape, *, vision: bool = True) -> Operations:
        """Of a forward pass alone. vision: whether the encoder runs; not with features from a cache."""
        return Operations(
            vision=self._encoder(video) + self._frames(video) if vision else 0.0,
            forward=2 * self.weights * video.length + self._attention(video) + self._head(video),
            trained=self._trained(video),
        )

    def step(self, video: VideoShape, *, vision: bool = True) -> Operations:
        """Of a forward and a backward pass."""
        once = self.forward(video, vision=vision)
        linear, attention = 2 * self.weights * video.length, self._attention(video)
        gradients = 2 if self.whole else 1  # of inputs, and of the weights where they are trained
        encoder = once.vision
        if self.whole or self.vision_lora:
            encoder += self.vision_again * once.vision + gradients * self._encoder(video)
            encoder += FLASH_BACKWARD * self._frames(video)
        return Operations(
            vision=encoder,
            forward=once.forward,
            recomputed=self.again * (linear + attention + self._lora(video)),
            backward=gradients * (linear + self._head(video)) + FLASH_BACKWARD * attention,
            trained=3 * once.trained,
        )

    def drawn(self, video: VideoShape) -> Operations:
        """Of drawing a video's answers, every branch being one."""
        once = self.forward(video)
        return Operations(vision=once.vision, drawing=once.forward + once.trained)

    def at_the_start(self, video: VideoShape, *, vision: bool = True) -> Operations:
        """Of asking the model as it was at the start as well."""
        once = self.forward(video, vision=vision)
        return Operations(vision=once.vision, start=once.forward + once.trained)

    def waited(self, video: VideoShape, gpu: Gpu) -> float:
        """Seconds in which weights are read, once for every token of the longest answer: few tokens at a time
        keep a card's memory busy, not its arithmetic.
        """
        tokens = max((answer for question in video.questions for answer in question.answers), default=0)
        return tokens * BFLOAT16 * (self.weights + self.head) / (gpu.memory * GB)

    def of_batch(self, batch: dict) -> float:
        """Of a packed batch's forward and backward pass, what checkpointing repeats left out."""
        frames = zip(batch["video_grid_thw"], batch["video_merge_sizes"], strict=True)
        seen = [
            VideoShape(frames=count, rows=high // merge, columns=wide // merge, kept=0, text=0)
            for (count, high, wide), merge in frames
        ]
        encoder = sum(self._encoder(video) + self._frames(video) for video in seen)
        steps = [self.step(video, vision=False) for video in shapes_in(batch)]
        projected = 6 * self.projector * len(batch["image_index"])
        return encoder + projected + sum(step.total - step.recomputed for step in steps)

    def _attention(self, video: VideoShape) -> float:
        return 4 * self.width * self.layers * pairs_of(video)

    def _head(self, video: VideoShape) -> float:
        return 2 * self.head * video.labelled

    def _lora(self, video: VideoShape) -> float:
        return 2 * self.lora * video.length + 2 * self.vision_lora * video.visual * MERGE_SIZE**2

    def _trained(self, video: VideoShape) -> float:
        return 2 * self.projector * video.kept + self._lora(video)

    def _encoder(self, video: VideoShape) -> float:
        return 2 * self.encoder * video.visual * MERGE_SIZE**2

    def _frames(self, video: VideoShape) -> float:
        """Attention within the frames."""
        a_frame = video.rows * video.columns * MERGE_SIZE**2
        return 4 * self.wide * self.deep * video.visual * MERGE_SIZE**2 * a_frame


@dataclass(frozen=True)
class Exchange:
    """What processes tell each other.

    gradients: bytes of a step. weights: bytes of a pass, gathered by ZeRO-3. processes, nodes: how many.
    """

    gradients: float
    weights: float
    processes: int
    nodes: int

    def seconds(self, gpu: Gpu, passes: int) -> float:
        """Of a step, were nothing done meanwhile; a ring of all processes."""
        if self.processes == 1:
            return 0.0
        rate = (gpu.link if self.nodes == 1 else min(gpu.link, NETWORK)) * GB
        others = (self.processes - 1) / self.processes
        return others * (2 * self.gradients + passes * self.weights) / rate


@dataclass(frozen=True)
class Step:
    """What a step does.

    operations: of all processes; slowest: of the one with most. computing: seconds of that one; reading: of
    the one with most to read, meanwhile; exchanging: gradients and weights. videos: of all processes.
    waiting: the part of computing in which drawing waits for weights.
    """

    operations: Operations
    slowest: float
    computing: float
    reading: float
    exchanging: float
    videos: float
    waiting: float = 0.0

    @property
    def seconds(self) -> float:
        """From one step to the next."""
        return max(self.computing + self.exchanging, self.reading)


def time_of(
    step: Sequence[Sequence[Pass]],
    of: Callable[[VideoShape], Operations],
    *,
    rate: float,
    gpu: Gpu,
    exchange: Exchange,
    read: float,
) -> Step:
    """The time of a step.

    step: of each process its passes. of: the operations of a video. rate: operations a second. read: seconds
    a video that a process's readers need together; 0 where features come from a cache.
    """
    shares = [sum((of(video) for one in share for video in one), Operations()) for share in step]
    slowest = max(share.total for share in shares)
    videos = [sum(map(len, share)) for share in step]
    return Step(
        operations=sum(shares, Operations()),
        slowest=slowest,
        computing=slowest / rate,
        reading=max(videos) * read,
        exchanging=exchange.seconds(gpu, max(map(len, step))),
        videos=sum(videos),
    )
