"""What is trained of the model: LoRA and the projector, as one PEFT adapter, in float32 whatever the base is.

A bfloat16 weight of 0.02 moves in steps of 1.2e-4, and an update of the recipe is 1e-5 at most: in bfloat16
most of the projector would never move. PEFT lifts LoRA to float32 and leaves the projector as the base is.
"""

import re
from collections.abc import Sequence
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from crashchat.model.videollama3 import CrashChatModel

PROJECTOR = "projector"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
VISION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def lora_targets(projections: Sequence[str] = PROJECTIONS, vision: bool = False) -> str:
    """The pattern of the linear layers that LoRA adapts.

    projections: of the language model; all of them are every linear layer but lm_head (docs/reference.md,
    Strategies). vision: the vision encoder's layers as well.
    """
    language = rf"language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(projections)})"
    encoder = rf"vision_model\.encoder\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(VISION_PROJECTIONS)})"
    return rf".*({language}|{encoder})" if vision else rf".*{language}"


def add_adapter(
    model: CrashChatModel,
    rank: int,
    alpha: int,
    dropout: float,
    *,
    projections: Sequence[str] = PROJECTIONS,
    vision: bool = False,
    dora: bool = False,
    rslora: bool = False,
    name: str = "default",
) -> PeftModel:
    """LoRA on linear layers (see lora_targets) and a trained copy of the projector,
    as one PEFT adapter. What is trained is float32.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias="none",
        target_modules=lora_targets(projections, vision),
        modules_to_save=[PROJECTOR],
        task_type="CAUSAL_LM",
        use_dora=dora,
        use_rslora=rslora,
    )
    adapted = get_peft_model(model, config, adapter_name=name)
    train_in_float32(adapted)
    return adapted


def train_in_float32(model: nn.Module) -> None:
    """Make every trained weight float32, and with it the optimizer's state."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def leave_inputs_as_they_are(model: nn.Module) -> None:
    """Keep PEFT from casting each LoRA layer's input to float32, which autocast would cast back.

    Under autocast loss and gradients are the same bits; each input is 5 bytes a number instead of 21.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def set_dropout(model: nn.Module, dropout: float) -> None:
    """Give every LoRA layer this dropout before its A."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name in module.lora_dropout:
                module.lora_dropout[name] = nn.Dropout(dropout) if dropout else nn.Identity()


def base_of(model: nn.Module) -> CrashChatModel:
    """The CrashChatModel inside a PEFT model (its layers adapted), or the model itself."""
    return cast(CrashChatModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """(trained, all) parameters."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, trained in counts if trained), sum(count for count, _ in counts)


def is_projector(parameter_name: str) -> bool:
    """Whether a parameter belongs to the projector, which has a learning rate of its own."""
    return re.search(rf"(^|\.){PROJECTOR}\.", parameter_name) is not None


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """{name: weight} of what is trained: what a checkpoint holds of an adapter."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
