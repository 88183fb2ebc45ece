"""What a training step takes of a card's memory, worked out without the card and without the weights.

The model is made of fake tensors, which have shapes and types and no data, and one forward and backward pass
of our own code runs on them. Whatever it allocates and frees is put on account of the part it belongs to:

    frozen and trained weights, gradients, optimizer     what stays
    vision pass, language model, logits                  what comes and goes

A GPU is imitated on the CPU's fake tensors: torch cannot run a backward pass on tensors of a device that it
was not built for. What differs there is done as there: autocast to bfloat16, layer norms in float32, flash
kernels without a mask, dropout with a mask of one byte.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.attention.bias import CausalBias
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, VideoLlama3Config

from crashchat.checkpoints.layouts import text_and_vision
from crashchat.model.attention import BRANCH_ATTENTION, branch_attention
from crashchat.model.packing import PackedBatch, pack
from crashchat.model.sequence import IGNORED, PREFIX, VideoSequence
from crashchat.model.videollama3 import CrashChatModel, add_adapter, base_of
from crashchat.training.ledger import (
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
from crashchat.training.shapes import Pass, VideoShape
from crashchat.video.tokens import VisualTokens

GPU_ATTENTION = "branches_on_a_gpu"
MERGE = 2  # patches a side that make one visual token
TEXT_TOKEN = 0  # whichever; only the numbers of tokens count


class _FusedDropout(nn.Dropout):
    """Dropout as GPUs do it, with a mask of a byte a number; a CPU keeps a float."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.native_dropout(input, self.p, self.training)[0]


class _FlashKernels(TorchFunctionMode):
    """Attention of a segment by the kernel that a GPU takes for it, which is told of no mask."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and isinstance(kwargs.get("attn_mask"), CausalBias):
            flash = torch.ops.aten._scaled_dot_product_flash_attention
            return flash(*args, kwargs["dropout_p"], is_causal=True, scale=kwargs["scale"])[0]
        return func(*args, **kwargs)


def gpu_attention(*args, **kwargs):
    """branch_attention (attention.py) as it runs on a GPU."""
    with _FlashKernels():
        return branch_attention(*args, **kwargs)


AttentionInterface.register(GPU_ATTENTION, gpu_attention)


class Imagined:
    """A model to train, without its weights.

    finetune, lora_rank, …: as in TrainConfig. gpu: trained in bfloat16 under autocast, as on a GPU; else in
    float32, as on a CPU. trained_dtype: the trained weights' type where it is not the one that training gives
    them.
    """

    def __init__(
        self,
        config: VideoLlama3Config,
        *,
        lora_rank: int | None,
        lora_dropout: float = 0.0,
        gpu: bool = True,
        trained_dtype: torch.dtype | None = None,
    ):
        self.gpu = gpu
        self.autocast = gpu and trained_dtype is None
        self.ledger = Ledger()
        self.model = _on_meta(config, lora_rank, lora_dropout, gpu)
        if trained_dtype is not None:
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(trained_dtype)
        if gpu:
            _like_a_gpu(self.model, self.autocast)
        self._imagine_weights()
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        for weight in self.trained:
            weight.register_post_accumulate_grad_hook(self._gradient_made)
        self._follow()
        self.ledger.part = OPTIMIZER
        self.optimizer = torch.optim.AdamW(self.trained, foreach=gpu)
        self._step()

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
        self.optimizer.step()
        self.optimizer.zero_grad()

    def run(self, videos: Pass, *, checkpointing: bool, again: bool = False) -> Memory:
        """The memory of a step's pass and of the optimizer's step behind it.

        checkpointing: recompute activations. again: a pass of a step that has made gradients already.
        """
        if checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.model.gradient_checkpointing_disable()
        self.model.train()
        self.ledger.part = GRADIENTS
        for weight in self.trained if again else ():
            weight.grad = torch.empty_like(weight)
        self.ledger.begin()
        self.ledger.part = VISION
        batch = batch_of(videos, base_of(self.model).config.video_token_id, self.ledger)
        with torch.autocast("cpu", torch.bfloat16) if self.autocast else nullcontext():
            loss = self.model(**batch.as_dict()).loss_sum
        loss.backward()
        del loss, batch
        self.ledger.part = OPTIMIZER
        self._step()
        return self.ledger.memory()


def _on_meta(
    config: VideoLlama3Config, lora_rank: int | None, lora_dropout: float, gpu: bool
) -> CrashChatModel | PeftModel:
    """The model as training makes it, on the meta device. lora_rank: None where all is trained."""
    text_and_vision(config)[0]._attn_implementation = GPU_ATTENTION if gpu else BRANCH_ATTENTION
    with torch.device("meta"):
        base = CrashChatModel(config)
        base = base.bfloat16() if gpu else base.float()
        base.requires_grad_(lora_rank is None)
        return base if lora_rank is None else add_adapter(base, lora_rank, alpha=16, dropout=lora_dropout)


def _like_a_gpu(model: nn.Module, autocast: bool) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            module.__class__ = _FusedDropout
        # On GPUs autocast has layer norms done in float32.
        if isinstance(module, nn.LayerNorm) and autocast:
            module.float().register_forward_pre_hook(lambda _, given: (given[0].float(),))


def sequence_of(video: VideoShape, image_token: int) -> VideoSequence:
    """A sequence of a video's shape."""
    input_ids = [image_token] * video.kept + [TEXT_TOKEN] * video.text
    labels, position_ids = [IGNORED] * video.prefix, list(range(video.prefix))
    branch_ids = [PREFIX] * video.prefix
    for number, (question, answer) in enumerate(video.branches, start=1):
        length = question + answer + 1
        input_ids += [TEXT_TOKEN] * length
        labels += [IGNORED] * question + [TEXT_TOKEN] * answer + [IGNORED]
        position_ids += range(video.prefix, video.prefix + length)
        branch_ids += [number] * length
    return VideoSequence(*map(torch.tensor, (input_ids, labels, position_ids, branch_ids)))


def batch_of(videos: Pass, image_token: int, ledger: Ledger | None = None, patch: int = 14) -> PackedBatch:
    """A batch of such videos. ledger: for pixels that are imagined; None: for real, black ones."""
    visuals = []
    for video in videos:
        size = (video.visual * MERGE**2, 3 * patch**2)
        pixels: Any = torch.zeros(size, dtype=torch.uint8, device="cpu" if ledger is None else "meta")
        kept = torch.zeros(video.visual, dtype=torch.bool)
        kept[: video.kept] = True
        visuals.append(
            VisualTokens(
                pixel_values=pixels if ledger is None else ledger.imagine(pixels),
                grid_thw=torch.tensor([[video.frames, video.rows * MERGE, video.columns * MERGE]]),
                merge_sizes=torch.tensor([MERGE]),
                compression_mask=kept,
                seconds=[0.0] * video.frames,
            )
        )
    return pack([sequence_of(video, image_token) for video in videos], visuals)
