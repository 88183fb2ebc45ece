"""A merged model as an engine made for serving takes it, and what stays on our side of it.

    out/            the language model as transformers' Qwen2ForCausalLM, with its tokenizer: the engine's
    out/crashchat/  vision encoder, projector and word embeddings, as a model without layers: ours

Ours is a checkpoint in transformers' layout like any other, whose language model has no layers; what it
makes of a video and a question are the embeddings that the engine is sent.
"""

from pathlib import Path

import torch

from crashchat.checkpoints.configs import text_and_vision
from crashchat.checkpoints.conversion import SHARD_BYTES, checked_source, copy_beside, write_shards
from crashchat.checkpoints.layouts import LAYOUTS, CheckpointError, VisionFields, rename_key
from crashchat.checkpoints.model_card import read_card, write_card
from crashchat.errors import writing
from crashchat.files import new_folder, write_json_atomic
from crashchat.provenance import OURS

# That vLLM's attention has kernels for, on CPUs and on GPUs (its AttentionBackend.get_supported_head_sizes).
HEAD_SIZES = (32, 64, 96, 128, 256)


def export_for_engine(
    source: Path,
    out: Path,
    vision: VisionFields | None = None,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> str:
    """Write the checkpoint `source` to `out` for an engine; returns the layout it was in. All or nothing.

    Raises CheckpointError as `convert` does, and for a size of heads that no engine has kernels for;
    FolderError where `out` is not new.
    """
    card = read_card(source)
    config, table, layout = checked_source(source, vision)
    text = text_and_vision(config)[0]
    size, rest = divmod(text.hidden_size, text.num_attention_heads)
    if rest or size not in HEAD_SIZES:
        raise CheckpointError(
            f"{source}/config.json: {text.hidden_size} wide with {text.num_attention_heads} heads, a head "
            f"size of {text.hidden_size / text.num_attention_heads:g}; vLLM supports "
            f"{', '.join(map(str, HEAD_SIZES))}: keep engine=torch for this model"
        )
    if dtype:
        config.dtype = dtype
    native = LAYOUTS["native"]
    language, head = native["language"], native["head"]
    kept = (native["vision"], native["projector"], f"{language}embed_tokens.", f"{language}norm.")
    names = {key: rename_key(key, layout, "native") for key in table}
    ours = {key: name for key, name in names.items() if name.startswith(kept)}
    # The hub layout names these two as Qwen2 does.
    engine = {
        key: rename_key(key, layout, "hub")
        for key, name in names.items()
        if name.startswith((language, head))
    }
    with new_folder(out) as temporary, writing(out):
        write_shards(temporary, table, names=engine, dtype=dtype, limit=shard_bytes, told="for the engine")
        stored = str(config.dtype).removeprefix("torch.")
        values = text.to_dict() | {"architectures": ["Qwen2ForCausalLM"], "dtype": stored}
        write_json_atomic(temporary / "config.json", values)
        copy_beside(source, temporary)
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
