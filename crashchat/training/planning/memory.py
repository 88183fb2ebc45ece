"""What a training step takes of a card's memory, worked out without the card and without the weights.

The model is made of fake tensors, which have shapes and types and no data, and one forward and backward pass
of our own code runs on them. Whatever it allocates and frees is put on account of the part it belongs to:

    frozen and trained weights, gradients, optimizer     what stays
    vision pass, language model, logits                  what comes and goes

A GPU is imitated on a CPU's fake tensors: torch cannot run a backward pass on tensors of a device that it was
not built for. What takes other memory there is done as there (imitation.py).
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import VideoLlama3Config

from crashchat.checkpoints.configs import text_and_vision
from crashchat.checkpoints.folders import MERGE_SIZE
from crashchat.model.attention import BRANCH_ATTENTION
from crashchat.model.lora import base_of
from crashchat.model.packing import PackedBatch, pack
from crashchat.model.sequence import IGNORED, PREFIX, VideoSequence
from crashchat.model.videollama3 import CrashChatModel
from crashchat.processes import choose_dtype
from crashchat.second_stages import PreferenceConfig
from crashchat.settings import TrainConfig
from crashchat.training.planning.imitation import GPU_ATTENTION, like_a_gpu, offloaded, quantize
from crashchat.training.planning.ledger import (
    FROZEN,
    GRADIENTS,
    LANGUAGE,
    LOGITS,
    OPTIMIZER,
    TRAINED,
    VISION,
    Ledger,
    Memory,
)
from crashchat.training.planning.shapes import Pass, VideoShape
from crashchat.training.preferences import pair_losses
from crashchat.training.setup import prepared
from crashchat.training.start import keep_start
from crashchat.video.tokens import VisualTokens

TEXT_TOKEN = 0  # whichever; only the numbers of tokens count
EIGHT_BIT_BLOCK = 256  # numbers of a moment that share a scale (bitsandbytes)


class Imagined:
    """A model to train, without its weights.

    sizes: of the base model. config: what is trained, and how. gpu: as on a GPU, else as on a CPU. start:
    whether the adapter that the run starts from is kept beside the one that it trains.
    """

    def __init__(self, sizes: VideoLlama3Config, config: TrainConfig, gpu: bool = True, start: bool = False):
        self.config = config
        dtype = choose_dtype(torch.device("cuda" if gpu else "cpu"), config.dtype)
        self.autocast = dtype == torch.bfloat16 and config.deepspeed is None
        self.ledger = Ledger()
        text_and_vision(sizes)[0]._attn_implementation = GPU_ATTENTION if gpu else BRANCH_ATTENTION
        with torch.device("meta"):
            base = CrashChatModel(sizes)
            self.model = prepared(base.bfloat16() if dtype == torch.bfloat16 else base.float(), config)
            if start:
                keep_start(cast(PeftModel, self.model), None)
            if config.quantization:
                quantize(base)
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        for weight in self.trained if config.deepspeed else ():  # its engine makes them what the base is
            weight.data = weight.data.to(dtype)
        if gpu:
            encoder_is_trained = any(weight.requires_grad for weight in base.model.vision_model.parameters())
            like_a_gpu(self.model, self.autocast and encoder_is_trained)
        self._imagine_weights()
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        for weight in self.trained:
            weight.register_post_accumulate_grad_hook(self._gradient_made)
        self._follow()
        self.ledger.part = OPTIMIZER
        self.optimizer: torch.optim.Optimizer | None = None
        if config.optimizer == "adamw_8bit":
            self.moments = [self._eight_bits(weight) for weight in self.trained for _ in range(2)]
        else:
            self.optimizer = torch.optim.AdamW(self.trained, foreach=gpu)
        self._step()

    def _eight_bits(self, weight: nn.Parameter) -> tuple[Tensor, Tensor]:
        """A moment in 8 bits, and its scales."""
        scales = weight.new_empty(-(-weight.numel() // EIGHT_BIT_BLOCK), dtype=torch.float32)
        return torch.empty_like(weight, dtype=torch.uint8), scales

    def _imagine_weights(self) -> None:
        done: dict[int, nn.Parameter] = {}  # tied weights are one
        for module in self.model.modules():
            for name, weight in module._parameters.items():
                if weight is not None and id(weight) not in done:
                    self.ledger.part = TRAINED if weight.requires_grad else FROZEN
                    fake = self.ledger.imagine(weight.detach())
                    done[id(weight)] = nn.Parameter(fake, requires_grad=weight.requires_grad)
                if weight is not None:
                    module._parameters[name] = done[id(weight)]
            self.ledger.part = FROZEN
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = self.ledger.imagine(buffer)

    def _gradient_made(self, weight: nn.Parameter) -> None:
        assert weight.grad is not None, "called once there is one"
        self.ledger.move(weight.grad, GRADIENTS)

    def _follow(self) -> None:
        """Have the ledger told which part is at work, forward and backward."""
        model = base_of(self.model)

        def at_work(part: str) -> Callable[..., None]:
            return lambda *_: setattr(self.ledger, "part", part)

        def when_back(part: str) -> Callable[..., None]:
            def watch(_module, _arguments, output) -> None:
                made = output.last_hidden_state
                if made.requires_grad:
                    made.register_hook(at_work(part))

            return watch

        model.model.vision_model.register_forward_pre_hook(at_work(VISION))
        model.model.vision_model.register_forward_hook(when_back(VISION))
        model.model.language_model.embed_tokens.register_forward_pre_hook(at_work(LANGUAGE))
        model.model.language_model.register_forward_hook(when_back(LANGUAGE))
        model.lm_head.register_forward_pre_hook(at_work(LOGITS))

    def _step(self) -> None:
        """A step of the optimizer; the first one makes its state."""
        for weight in self.trained:
            if weight.grad is None:
                weight.grad = torch.empty_like(weight)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        if self.optimizer is not None:
            self.optimizer.step()
        for weight in self.trained:
            weight.grad = None

    def validate(self, videos: Pass) -> Memory:
        """The memory of a validation's pass."""
        self.model.eval()
        self.ledger.begin()
        self.ledger.part = VISION
        batch = batch_of(videos, base_of(self.model).config.video_token_id, self.ledger)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            self._loss(batch.as_dict())
        return self.ledger.memory()

    def _loss(self, batch: dict) -> Tensor:
        if isinstance(self.config, PreferenceConfig):
            model = cast(PeftModel, self.model)
            return pair_losses(model, model, batch, self.config.beta).sum()
        return self.model(**batch).loss_sum

    def run(self, videos: Pass, *, every: int, again: bool = False) -> Memory:
        """The memory of a step's pass and of the optimizer's step behind it.

        every: one layer in so many is checkpointed, 0: none. again: a pass of a step that has made
        gradients already.
        """
        model = base_of(self.model)
        if every:
            model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
        else:
            model.activation_checkpointing_disable()
        self.model.train()
        self.ledger.part = GRADIENTS
        for weight in self.trained if again else ():
            weight.grad = torch.empty_like(weight)
        self.ledger.begin()
        self.ledger.part = VISION
        batch = batch_of(videos, base_of(self.model).config.video_token_id, self.ledger)
        with offloaded(self.ledger.imagine) if self.config.offload_activations else nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                loss = self._loss(batch.as_dict())
            loss.backward()
        del loss, batch
        self.ledger.part = OPTIMIZER
        self._step()
        return self.ledger.memory()


def sequence_of(video: VideoShape, image_token: int) -> VideoSequence:
    """A sequence of a video's shape."""
    input_ids = [image_token] * video.kept + [TEXT_TOKEN] * video.text
    labels, position_ids = [IGNORED] * video.prefix, list(range(video.prefix))
    branch_ids, stem_ids = [PREFIX] * video.prefix, [PREFIX] * video.prefix
    number = PREFIX
    for question in video.questions:
        first = number + 1
        for tokens, stem, labelled in question.parts:
            number += 1
            closing = question.closing if labelled else 0
            input_ids += [TEXT_TOKEN] * tokens
            labels += [IGNORED] * (tokens - labelled - closing) + [TEXT_TOKEN] * labelled
            labels += [IGNORED] * closing
            position_ids += range(video.prefix + stem, video.prefix + stem + tokens)
            branch_ids += [number] * tokens
            stem_ids += [first if stem else PREFIX] * tokens
    return VideoSequence(
        input_ids=torch.tensor(input_ids),
        labels=torch.tensor(labels),
        position_ids=torch.tensor(position_ids),
        branch_ids=torch.tensor(branch_ids),
        stem_ids=torch.tensor(stem_ids),
        image_places=torch.arange(video.kept),
    )


def batch_of(videos: Pass, image_token: int, ledger: Ledger | None = None, patch: int = 14) -> PackedBatch:
    """A batch of such videos. ledger: for pixels that are imagined; None: for real, black ones."""
    visuals = []
    for video in videos:
        size = (video.visual * MERGE_SIZE**2, 3 * patch**2)
        pixels: Any = torch.zeros(size, dtype=torch.uint8, device="cpu" if ledger is None else "meta")
        kept = torch.zeros(video.visual, dtype=torch.bool)
        kept[: video.kept] = True
        visuals.append(
            VisualTokens(
                pixel_values=pixels if ledger is None else ledger.imagine(pixels),
                grid_thw=torch.tensor([[video.frames, video.rows * MERGE_SIZE, video.columns * MERGE_SIZE]]),
                merge_sizes=torch.tensor([MERGE_SIZE]),
                compression_mask=kept,
                seconds=[0.0] * video.frames,
            )
        )
    return pack([sequence_of(video, image_token) for video in videos], visuals)
