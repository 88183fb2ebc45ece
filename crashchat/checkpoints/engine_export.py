"""A model as an engine made for serving takes it, and what stays on our side of it.

    out/                the language model as transformers' Qwen2ForCausalLM, with its tokenizer: the engine's
    out/adapters/NAME/  adapters in the released form: their LoRA is the engine's, their projectors are ours
    out/engine.yaml     what the engine must be told of the adapters when it starts
    out/crashchat/      vision encoder, projector and word embeddings, as a model without layers: ours

Ours is a checkpoint in transformers' layout like any other, whose language model has no layers; what it
makes of a video and a question are the embeddings that the engine is sent.

Heads of a size that engines have no kernels for are widened with zeros, and the language model is written as
LlamaForCausalLM, which may say how wide its heads are and computes the same (Heads).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig

from crashchat.checkpoints.adapters import Adapter, check_fits, read_adapter, write_released_adapter
from crashchat.checkpoints.configs import text_and_vision
from crashchat.checkpoints.conversion import SHARD_BYTES, checked_source, copy_beside, write_shards
from crashchat.checkpoints.layouts import LAYOUTS, CheckpointError, VisionFields, rename_key
from crashchat.checkpoints.model_card import read_card, write_card
from crashchat.errors import writing
from crashchat.files import new_folder, write_json_atomic, write_text_atomic
from crashchat.provenance import OURS

# That vLLM's attention has kernels for, on CPUs and on GPUs (its AttentionBackend.get_supported_head_sizes).
HEAD_SIZES = (32, 64, 96, 128, 256)
# Ranks that vLLM makes room for (its LoRAConfig).
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
ADAPTERS, STARTED_WITH = "adapters", "engine.yaml"
_PROJECTION = re.compile(r"\.layers\.\d+\.self_attn\.([qkvo])_proj\.(weight|bias|lora_[AB]\.weight)$")


@dataclass(frozen=True)
class Heads:
    """The language model's attention heads, and how an engine gets them.

    size: of a head; room: to which it is widened. A query or key is rotated in pairs, the i-th number with
    the one half a head further, by the angle position · theta^(-2i/size), so each half is widened:

        size 4, room 6      a b c d  ->  a b 0 c d 0

    and theta^(room/size) in place of theta leaves the angles as they are. Zeros add nothing to a product of
    query and key, but an engine divides it by √room instead of √size, which queries make up for.
    """

    size: int
    room: int

    @classmethod
    def of(cls, text: PreTrainedConfig, source: Path) -> "Heads":
        """A language model's. Raises CheckpointError for heads that no engine has room for."""
        size, rest = divmod(text.hidden_size, text.num_attention_heads)
        room = next((room for room in HEAD_SIZES if room >= size), 0)
        if rest or size % 2 or not room:
            raise CheckpointError(
                f"{source}/config.json: {text.hidden_size} wide with {text.num_attention_heads} heads, a "
                f"head size of {text.hidden_size / text.num_attention_heads:g}; vLLM supports even ones up "
                f"to {HEAD_SIZES[-1]}: keep engine=torch for this model"
            )
        return cls(size, room)

    def widen(self, name: str, weight: Tensor) -> Tensor:
        """A weight, bias or LoRA factor of this name, as the engine gets it."""
        found = _PROJECTION.search(name)
        if self.size == self.room or not found:
            return weight
        projection, kind = found.groups()
        if projection == "o":
            return weight if kind in ("bias", "lora_B.weight") else self._widen_rows(weight.T).T
        if kind == "lora_A.weight":
            return weight
        wide = self._widen_rows(weight)
        return wide * (self.room / self.size) ** 0.5 if projection == "q" else wide

    def _widen_rows(self, weight: Tensor) -> Tensor:
        halves = weight.unflatten(0, (-1, self.size // 2))
        below = (0, 0) * (weight.ndim - 1)
        return functional.pad(halves, (*below, 0, (self.room - self.size) // 2)).flatten(0, 1)

    def config(self, text: PreTrainedConfig) -> dict:
        """config.json of the language model."""
        values = text.to_dict()
        if self.size == self.room:
            return values | {"architectures": ["Qwen2ForCausalLM"]}
        rope = values["rope_parameters"]
        return values | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "head_dim": self.room,
            "rope_parameters": rope | {"rope_theta": rope["rope_theta"] ** (self.room / self.size)},
            "qkv_bias": True,  # of queries, keys and values, as Qwen2 has it; attention_bias is all four's
            "attention_bias": False,
            "mlp_bias": False,
        }


def export_for_engine(
    source: Path,
    out: Path,
    vision: VisionFields | None = None,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    adapters: Sequence[Path] = (),
) -> str:
    """Write the checkpoint `source` to `out` for an engine; returns the layout it was in. All or nothing.

    adapters: trained on it, which the engine serves beside it, each under its folder's name. Raises
    CheckpointError as `convert` does, for sizes of heads and for adapters that no engine serves; FolderError
    where `out` is not new.
    """
    card = read_card(source)
    config, table, layout = checked_source(source, vision)
    text = text_and_vision(config)[0]
    heads = Heads.of(text, source)
    if dtype:
        config.dtype = dtype
    native = LAYOUTS["native"]
    language, head = native["language"], native["head"]
    kept = (native["vision"], native["projector"], f"{language}embed_tokens.", f"{language}norm.")
    names = {key: rename_key(key, layout, "native") for key in table}
    served = _served(adapters, {name: table[key][1] for key, name in names.items()})
    ours = {key: name for key, name in names.items() if name.startswith(kept)}
    # The hub layout names these two as Qwen2 and Llama do.
    engine = {
        key: rename_key(key, layout, "hub")
        for key, name in names.items()
        if name.startswith((language, head))
    }
    with new_folder(out) as temporary, writing(out):
        write_shards(
            temporary,
            table,
            names=engine,
            dtype=dtype,
            limit=shard_bytes,
            told="for the engine",
            change=heads.widen,
        )
        values = heads.config(text) | {"dtype": str(config.dtype).removeprefix("torch.")}
        write_json_atomic(temporary / "config.json", values)
        copy_beside(source, temporary)
        if adapters:
            (temporary / ADAPTERS).mkdir()
            for folder in adapters:
                write_released_adapter(folder, temporary / ADAPTERS / folder.resolve().name, heads.widen)
            write_text_atomic(temporary / STARTED_WITH, _started_with(served))
        part = temporary / OURS
        part.mkdir()
        write_shards(part, table, names=ours, dtype=dtype, limit=shard_bytes, told="for our side")
        text.num_hidden_layers, text.layer_types = 0, []
        # Nothing is said by this model: its head is not kept.
        text.tie_word_embeddings = config.tie_word_embeddings = True
        values = config.to_dict() | {"architectures": ["VideoLlama3ForConditionalGeneration"]}
        write_json_atomic(part / "config.json", values)
        copy_beside(source, part)
        if card:
            write_card(temporary, card)
            write_card(part, card)
    return layout


def _served(folders: Sequence[Path], shapes: dict[str, tuple[int, ...]]) -> list[Adapter]:
    """The adapters of some folders. Raises CheckpointError for those that no engine serves, or not on a base
    whose weights have these shapes.
    """
    names = [folder.resolve().name for folder in folders]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CheckpointError(
            f"two adapters are called {twice[0]}; an engine serves each under its folder's name: rename one"
        )
    adapters = []
    for folder in folders:
        adapter = read_adapter(folder)
        check_fits(adapter, shapes, folder)
        config = adapter.config
        faults = {
            "LoRA on the vision encoder": any("vision" in module for module in adapter.modules),
            "DoRA": config.use_dora,
            "ranks or alphas of single modules": config.rank_pattern or config.alpha_pattern,
            f"a rank of {config.r}": config.r > RANKS[-1],
        }
        for fault, found in faults.items():
            if found:
                raise CheckpointError(
                    f"{folder}: has {fault}, which no engine serves; crashchat merge it instead"
                )
        adapters.append(adapter)
    return adapters


def _started_with(adapters: Sequence[Adapter]) -> str:
    """engine.yaml."""
    modules = {module.rpartition(".")[2] for adapter in adapters for module in adapter.modules}
    words = {
        "enable-lora": "true",
        "max-loras": len(adapters),
        "max-lora-rank": next(room for room in RANKS if room >= max(one.config.r for one in adapters)),
        # Else vLLM makes room for LoRA on the word embeddings too, and then fails on a batch with prompts
        # as embeddings beside tokens of answers.
        "lora-target-modules": f"[{', '.join(sorted(modules))}]",
    }
    return "".join(f"{word}: {value}\n" for word, value in words.items())
