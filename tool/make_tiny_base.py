"""Make the untrained tiny model that `scripts/pretrain_tiny_base.sh` trains into ckpt/tiny_base.

    python tool/make_tiny_base.py --annotations data/general/*_train.json data/demo/*_train.json --out
    outputs/pretraining/init

Its tokenizer is learnt from those annotation files (a Qwen2 tokenizer of ~1,500 tokens instead of 151,665);
its weights are random with a standard deviation of 1/sqrt(inputs): with transformers' default of 0.02, a
model 50 to 130 wide learns no vision in half an hour.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import cast

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import Qwen2Tokenizer, VideoLlama3Config

from crashchat.checkpoints.folders import save_checkpoint
from crashchat.checkpoints.model_card import ModelCard
from crashchat.data.annotations import load_annotations
from crashchat.errors import exit_code
from crashchat.model.sequence import IMAGE_TOKEN, image_token_id
from crashchat.model.videollama3 import CrashChatModel
from crashchat.provenance import command_line, now, versions
from crashchat.tasks import TASKS
from crashchat.video.tokens import VideoSettings, VisionSettings

SPECIAL = ["<|im_end|>", "<|endoftext|>", "<|im_start|>", IMAGE_TOKEN]
# Qwen2's own rule for where words end; digits stand alone, so that times are read digit by digit.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: list[str], vocabulary: int) -> Qwen2Tokenizer:
    """A byte-level BPE tokenizer with Qwen2's word rule and special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learnt["vocab"],
        # Pairs, as tokenizers wants them; transformers' type is that of a merges.txt's lines.
        merges=cast(list[str], [tuple(merge) for merge in learnt["merges"]]),
        unk_token=None,  # type: ignore[arg-type]  # its type leaves out that there may be none
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL,
        model_max_length=4096,
    )


def tiny_config(tokenizer: Qwen2Tokenizer) -> VideoLlama3Config:
    """Vision 48 wide x 2 layers, language model 96 wide x 3 layers."""
    image = image_token_id(tokenizer)
    return VideoLlama3Config(
        vision_config={
            "hidden_size": 48,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": 14,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": False,
        },
        image_token_id=image,
        video_token_id=image,
        tie_word_embeddings=False,
    )


def initialise(model: CrashChatModel, seed: int) -> None:
    """Random weights of standard deviation 1/sqrt(inputs), biases zero, norms one."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--annotations", nargs="+", type=Path, required=True, help="annotation files to learn words from"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the untrained model")
    parser.add_argument("--vocabulary", type=int, default=2048, help="tokens at most (default 2048)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    return exit_code(lambda: make(arguments.annotations, arguments.out, arguments.vocabulary, arguments.seed))


def make(annotations: list[Path], out: Path, vocabulary: int, seed: int) -> None:
    """Learn a tokenizer of at most `vocabulary` tokens from annotation files,
    and write it with an untrained model to `out`.
    """
    videos = load_annotations(annotations, ".")
    texts = [
        text for video in videos for question in video.questions for text in (question.text, question.answer)
    ]
    # Each prompt many times over: its words become single tokens, so that six questions stay short.
    texts += [task.prompt or "" for task in TASKS.values()] * 50 + [",Time 0.1s:"] * 500
    tokenizer = train_tokenizer(texts, vocabulary)
    model = CrashChatModel(tiny_config(tokenizer))
    initialise(model, seed)
    settings = VideoSettings(
        fps=4.0, max_frames=40, vision=VisionSettings(min_tokens=8, max_tokens_per_frame=8)
    )
    card = ModelCard(
        kind="model",
        name=out.resolve().name,
        notes=["Its weights are random."],
        versions=versions(),
        made=now(),
        command=command_line(),
    )
    save_checkpoint(model, tokenizer, settings, folder=out, card=card)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {size:,} parameters, {len(tokenizer):,} tokens")


if __name__ == "__main__":
    sys.exit(main())
