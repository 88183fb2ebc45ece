"""The model as it was when a run started, kept beside what it becomes: as a second adapter, or as the base
under none.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from peft import PeftModel

from crashchat.checkpoints.adapters import load_adapter
from crashchat.model.lora import base_of

START = "start"  # the adapter that a second stage began with


def keep_start(model: PeftModel, folder: Path | None) -> None:
    """Put the adapter that a run starts from beside the one that it trains, in the base's type. folder: of
    its weights; None for others of the same sizes.

    Raises CheckpointError.
    """
    if folder is None:
        model.add_adapter(START, model.peft_config["default"], autocast_adapter_dtype=False)
        for name, parameter in model.named_parameters():
            if f".{START}." in name:  # of the meta device PEFT leaves LoRA in float32
                parameter.data = parameter.data.to(base_of(model).dtype)
    else:
        load_adapter(model, folder, START)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".default." in name)


@contextlib.contextmanager
def at_the_start(model: PeftModel) -> Iterator[None]:
    """The model as it was when the run started, for a while: under the adapter of then, or under none."""
    with _under(model, START) if START in model.peft_config else model.disable_adapter():
        yield


@contextlib.contextmanager
def _under(model: PeftModel, adapter: str) -> Iterator[None]:
    """Another adapter of a PEFT model for a while; which weights are trained stays as it was."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    own = model.active_adapter
    model.set_adapter(adapter)
    try:
        yield
    finally:
        model.set_adapter(own)
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
