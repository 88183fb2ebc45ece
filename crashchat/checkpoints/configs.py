"""A checkpoint's config.json in transformers' own form, and back in the released one."""

from pathlib import Path
from typing import cast

from transformers import PreTrainedConfig, VideoLlama3Config

from crashchat.checkpoints.layouts import (
    RELEASED_TYPE,
    SO400M,
    TEXT_FIELDS,
    CheckpointError,
    NativeFields,
    TextFields,
    VisionFields,
    read_config,
)
from crashchat.errors import abbreviate


def native_config(
    folder: str | Path, image_token: int, vision: VisionFields | None = None
) -> VideoLlama3Config:
    """A checkpoint's config in transformers' own form.

    image_token: the id that stands for a visual token. vision: the vision encoder's settings, for a
    checkpoint whose config has none and that is not the released size (so400m): numbers of heads cannot be
    read off weights and are never guessed.
    """
    fields = read_config(folder)
    path = Path(folder) / "config.json"
    text: TextFields
    rope, tied = None, fields.tie_word_embeddings
    if isinstance(fields, NativeFields):
        native = fields.text_config
        text, seen = native, fields.vision_config
        rope = native.rope_parameters.model_dump() if native.rope_parameters else None
        tied = tied or native.tie_word_embeddings
    else:
        text, so400m = fields, VisionFields.model_validate(SO400M)
        seen = vision or fields.vision_encoder_config or fields.vision_config or so400m
    if rope is None and text.rope_theta is None:
        raise CheckpointError(f"{path}: rope_theta is missing; it cannot be read off the weights")
    language = {
        "model_type": "qwen2",
        "rope_parameters": rope or {"rope_type": "default", "rope_theta": text.rope_theta},
        **text.model_dump(include=set(TEXT_FIELDS)),
    }
    encoder = seen.model_dump()
    try:
        config = VideoLlama3Config(text_config=language, vision_config=encoder, tie_word_embeddings=tied)
    # Its checks go on in transformers, which has errors of many kinds for what it cannot make a model of.
    except Exception as error:
        raise CheckpointError(f"{path}: no model can be made of it: {abbreviate(error)}") from error
    text_and_vision(config)[0].tie_word_embeddings = config.tie_word_embeddings
    config.dtype = fields.stored
    # The one placeholder of the text (docs/reference.md, Text) stands for video tokens here.
    config.video_token_id = config.image_token_id = image_token
    return config


def text_and_vision(config: VideoLlama3Config) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    """The two configs in a config; transformers' types also tell of the dicts that it makes them of."""
    return cast(PreTrainedConfig, config.text_config), cast(PreTrainedConfig, config.vision_config)


def released_config(config: VideoLlama3Config) -> dict:
    """The config.json of the hub and local layouts.

    Both get the vision config, which the reference's own local ones lack.
    """
    text, vision = (part.to_dict() for part in text_and_vision(config))
    return {
        "model_type": RELEASED_TYPE,
        "architectures": ["Videollama3Qwen2ForCausalLM"],
        **{name: text[name] for name in TEXT_FIELDS},
        "rope_theta": text["rope_parameters"]["rope_theta"],
        "rope_scaling": None,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": str(config.dtype).removeprefix("torch."),
        "use_cache": True,
        "use_token_compression": True,
        "image_token_index": config.video_token_id,
        "mm_projector_type": "mlp2x_gelu",
        "vision_encoder": "DAMO-NLP-SG/SigLIP-NaViT",
        "mm_vision_encoder": "DAMO-NLP-SG/SigLIP-NaViT",
        "vision_encoder_config": {
            "model_type": "videollama3_vision_encoder",
            **{name: vision[name] for name in SO400M},
        },
    }
