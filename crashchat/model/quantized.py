"""A frozen base in 4 bits (QLoRA, arXiv 2305.14314), so that a 7B model trains on a card of 24 GB."""

from typing import Any, cast

import torch
from torch import nn

from crashchat.model.videollama3 import CrashChatModel


def quantize(model: CrashChatModel) -> None:
    """Make the linear layers of the language model (not lm_head) nf4 with double quantisation, in place.

    They are quantised when the model is moved to its device, and compute in the type that they have now.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    layers = model.model.language_model.layers
    for name, module in list(layers.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, own = name.rpartition(".")
            with torch.device("meta"):
                small = Linear4bit(
                    module.in_features,
                    module.out_features,
                    bias=module.bias is not None,
                    compute_dtype=module.weight.dtype,
                    quant_type="nf4",
                )
            small.weight = Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
            small.bias = module.bias
            # On a CPU a layer would repack its weights in place in evaluation, which needs widths of whole
            # blocks.
            small.support_avx512bf16_for_cpu = False
            setattr(layers.get_submodule(parent), own, small)
    cast(Any, model).is_loaded_in_4bit = True  # PEFT asks
