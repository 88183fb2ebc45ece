"""From folders to what answers: models of any layout with their adapters, engines, and the whole cascade."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from crashchat.answering.answerer import Answerer
from crashchat.answering.cascade import LINGUISTIC, MAX_NEW_TOKENS, MAX_VISUAL_TOKENS, PERCEPTION, Cascade
from crashchat.answering.engines import BASE, Engine, TorchEngine
from crashchat.answering.generate import yes_and_no
from crashchat.answering.vllm import EngineError, VllmEngine
from crashchat.checkpoints.adapters import CONFIG_FILE, LORA_FILE, PROJECTOR_FILE, load_adapter
from crashchat.checkpoints.engine_export import ADAPTERS
from crashchat.checkpoints.folders import load_model, load_tokenizer, load_video_settings
from crashchat.checkpoints.layouts import CheckpointError, read_vision_config
from crashchat.checkpoints.model_card import read_card, tell_cards
from crashchat.evaluation_settings import Decode
from crashchat.model.lora import base_of
from crashchat.model.videollama3 import CrashChatModel
from crashchat.provenance import OURS, content_hash
from crashchat.tasks import TASKS
from crashchat.video.feature_cache import FeatureCache


def open_engine(
    folder: Path,
    adapters: dict[str, Path],
    *,
    max_new_tokens: int,
    address: str | None = None,
    device: torch.device | None = None,
    vision_config: Path | None = None,
    dtype: torch.dtype | None = None,
    cache: Callable[[CrashChatModel], FeatureCache | None] = lambda model: None,
) -> tuple[Engine, PreTrainedTokenizerBase]:
    """What answers with a model folder: itself, with adapters on it, {name: folder}; or the vLLM server at
    `address`, for what `crashchat convert --to vllm` wrote, and adapters that were exported with it. And its
    tokenizer.

    cache: the model -> where its vision features are kept. Raises CheckpointError, among others for a
    tokenizer that begins 'Yes' and 'No' alike, and EngineError.
    """
    if address is None:
        model, tokenizer = load_with_adapters(folder, adapters, device, vision_config, dtype=dtype)
        return TorchEngine(
            model,
            tokenizer,
            yes_no=_yes_and_no(tokenizer),
            max_new_tokens=max_new_tokens,
            feature_cache=cache(base_of(model)),
        ), tokenizer
    if not (folder / OURS / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: no {OURS}/config.json in it; expected what crashchat convert MODEL {folder} --to "
            "vllm writes"
        )
    exported = (folder / ADAPTERS).resolve()
    if others := [str(path) for path in adapters.values() if path.resolve().parent != exported]:
        raise EngineError(
            f"engine=vllm takes adapters that were exported with the model, in {folder / ADAPTERS}, found "
            f"{', '.join(others)}; crashchat convert BASE {folder} --to vllm --adapters {' '.join(others)}"
        )
    tokenizer = load_tokenizer(folder / OURS)
    ours = load_model(folder / OURS, tokenizer, device, dtype, vision=read_vision_config(vision_config))
    return VllmEngine(
        ours,
        tokenizer,
        address=address,
        folder=folder,
        yes_no=_yes_and_no(tokenizer),
        max_new_tokens=max_new_tokens,
        adapters=adapters,
        feature_cache=cache(ours),
    ), tokenizer


def _yes_and_no(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    try:
        return yes_and_no(tokenizer)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def load_with_adapters(
    folder: Path,
    adapters: dict[str, Path],
    device: torch.device | None = None,
    vision_config: Path | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """A model folder of any layout with adapters on it, {name: folder}, and its tokenizer.

    Raises CheckpointError.
    """
    tokenizer = load_tokenizer(folder)
    model: CrashChatModel | PeftModel = load_model(
        folder, tokenizer, device, dtype, vision=read_vision_config(vision_config)
    )
    for name, adapter in adapters.items():
        model = load_adapter(model, adapter, name)
    return model, tokenizer


def load_cascade(
    model_folder: Path,
    linguistic: Path | None = None,
    perception: Path | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    max_visual_tokens: int = MAX_VISUAL_TOKENS,
    token_compression: bool = True,
    max_new_tokens: int = MAX_NEW_TOKENS,
    decode: Decode = "free",
    vision_config: Path | None = None,
    device: torch.device | None = None,
    engine_address: str | None = None,
) -> Cascade:
    """A model folder of any layout, with two adapters, one (the same folder twice) or none; or, with the
    address of a vLLM server, what was exported for it.

    What the models learnt on is printed first. The content hashes are computed beside the loading;
    `Cascade.identity` waits for them. Raises CheckpointError for what does not load, and for one adapter
    without the other.
    """
    if (linguistic is None) != (perception is None):
        raise CheckpointError(
            "a linguistic and a perception adapter belong together; name one folder twice if it answers all "
            "tasks"
        )
    folders = {LINGUISTIC: linguistic, PERCEPTION: perception} if linguistic and perception else {}
    parts = {BASE: model_folder, **folders}
    cards = {part: read_card(folder) for part, folder in parts.items()}
    tell_cards({folder: cards[part] for part, folder in parts.items()})
    adapters = _adapters(folders)
    settings = load_video_settings(
        model_folder,
        fps,
        max_frames=max_frames,
        max_visual_tokens=max_visual_tokens,
        token_compression=token_compression,
    )
    own = {name: folder for name, folder in folders.items() if name in adapters.values()}
    engine, tokenizer = open_engine(
        model_folder,
        own,
        max_new_tokens=max_new_tokens,
        address=engine_address,
        device=device,
        vision_config=vision_config,
    )
    answerer = Answerer(engine, tokenizer, settings, max_new_tokens=max_new_tokens, decode=decode)

    def identify() -> dict:
        found: dict[str, dict | None] = dict.fromkeys((BASE, LINGUISTIC, PERCEPTION))
        for part, folder in parts.items():
            names = None if part == BASE else [CONFIG_FILE, LORA_FILE, PROJECTOR_FILE]
            card = cards[part]
            found[part] = {
                "name": folder.resolve().name,
                "sha256": content_hash(folder, names),
                "trained_on": [known.model_dump() for known in card.trained_on] if card else None,
                "unknown": card.unknown if card else [],
            }
        return found

    pool = ThreadPoolExecutor(1)
    identity = pool.submit(identify)
    pool.shutdown(wait=False)
    return Cascade(answerer, adapters, cards=cards, identity=identity)


def _adapters(folders: dict[str, Path]) -> dict[str, str]:
    """{group of tasks: the name of its adapter} of two folders, or of one twice. Raises CheckpointError."""
    if len({folder.resolve() for folder in folders.values()}) == 1:
        return dict.fromkeys(TASKS.groups, LINGUISTIC)
    if folders and (others := sorted(TASKS.groups.keys() - folders.keys())):
        raise CheckpointError(
            f"a linguistic and a perception adapter answer no tasks of the groups {', '.join(others)}; name "
            "one folder twice if it answers all tasks"
        )
    return {group: group for group in folders}
