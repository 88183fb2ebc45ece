"""What takes other memory on a GPU than on a CPU, done as there on tensors without data (ledger.py)."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention.bias import CausalBias
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface

from crashchat.model.attention import branch_attention
from crashchat.model.videollama3 import CrashChatModel

GPU_ATTENTION = "branches_on_a_gpu"
# Numbers that share a scale, and scales that share one (double quantisation; arXiv 2305.14314).
BLOCK, BLOCKS = 64, 256


class FusedDropout(nn.Dropout):
    """Dropout with a mask of a byte a number; a CPU keeps a float."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.native_dropout(input, self.p, self.training)[0]


class FlashKernels(TorchFunctionMode):
    """Attention of a segment by the kernel that a GPU takes for it, which is told of no mask."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and isinstance(kwargs.get("attn_mask"), CausalBias):
            flash = torch.ops.aten._scaled_dot_product_flash_attention
            return flash(*args, kwargs["dropout_p"], is_causal=True, scale=kwargs["scale"])[0]
        return func(*args, **kwargs)


def gpu_attention(*args, **kwargs):
    """branch_attention (attention.py) as it runs on a GPU."""
    with FlashKernels():
        return branch_attention(*args, **kwargs)


AttentionInterface.register(GPU_ATTENTION, gpu_attention)


def like_a_gpu(model: nn.Module, autocast: bool) -> None:
    """Have a model drop numbers and, under autocast, normalise them as on a GPU."""
    for module in model.modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            module.__class__ = FusedDropout
        # On GPUs autocast has layer norms done in float32; the vision encoder's, where it is trained.
        if isinstance(module, nn.LayerNorm) and autocast:
            module.float().register_forward_pre_hook(lambda _, given: (given[0].float(),))


class _By4Bit(torch.autograd.Function):
    """A product with a weight of 4 bits, which is made whole for the while of it, forward and backward."""

    @staticmethod
    def forward(ctx, x: Tensor, packed: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.shape = shape
        return x @ packed.new_empty(shape, dtype=x.dtype).t()

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        (packed,), (gradient,) = ctx.saved_tensors, gradients
        return gradient @ packed.new_empty(ctx.shape, dtype=gradient.dtype), None, None


class Linear4Bit(nn.Module):
    """A linear layer as bitsandbytes keeps it: two numbers a byte, a byte a block of numbers, a float
    a block of these.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        size, device = linear.weight.numel(), linear.weight.device
        self.packed, self.scales, self.scales_of_scales = (
            nn.Parameter(torch.empty(-(-size // share), dtype=dtype, device=device), requires_grad=False)
            for share, dtype in ((2, torch.uint8), (BLOCK, torch.uint8), (BLOCK * BLOCKS, torch.float32))
        )
        self.bias = linear.bias
        self.compute_dtype = linear.weight.dtype

    @property
    def weight(self) -> Tensor:
        """Made whole, as DoRA asks for it."""
        return self.packed.new_empty((self.out_features, self.in_features), dtype=self.compute_dtype)

    def forward(self, x: Tensor) -> Tensor:
        shape = torch.Size((self.out_features, self.in_features))
        product = _By4Bit.apply(x.to(self.compute_dtype), self.packed, shape)
        product = product if self.bias is None else product + self.bias
        return product.clone()  # as PEFT does, before it adds LoRA's


def quantize(model: CrashChatModel) -> None:
    """Have the frozen linear layers of the language model (not lm_head) in 4 bits, as quantized.py does."""
    for module in list(model.model.language_model.layers.modules()):
        for name, child in module.named_children():
            whole = name == "base_layer" or not isinstance(module, LoraLayer)
            if whole and type(child) is nn.Linear and not child.weight.requires_grad:
                setattr(module, name, Linear4Bit(child))


def offloaded(imagine: Callable[[Tensor], Tensor]) -> AbstractContextManager:
    """What the backward pass needs is kept in the computer's memory, and comes back when it is needed.

    imagine: a tensor of the meta device -> one on the account (ledger.py).
    """

    def away(tensor: Tensor) -> tuple[Tensor, bool]:
        stub = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        return stub, tensor.requires_grad

    def back(kept: tuple[Tensor, bool]) -> Tensor:
        return imagine(kept[0])

    return saved_tensors_hooks(away, back)
