"""Answers: a video's prefix is run through the language model once, its questions are answered from it as one batch.

The keys and values of the prefix are kept; each question reads them and its own tokens alone, at positions that go on from
the prefix's end, exactly as if it had been asked by itself. Greedy decoding.
"""

from collections.abc import Sequence as ListOf

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from crashchat.model import CrashChatModel, base_of
from crashchat.sequence import Branch, branch_token_ids, prefix_ids
from crashchat.vision import VisualTokens


def _run(model: CrashChatModel, embeddings: Tensor, position_ids: Tensor, mask: Tensor | None, cache: DynamicCache) -> Tensor:
    """Last hidden states float[B, L, hidden]; the cache grows by L. mask: bool[B, 1, L, keys], None for plain causal."""
    return model.model.language_model(
        inputs_embeds=embeddings,
        position_ids=position_ids,
        # As a dict the mask is taken as it is; SDPA without a mask is causal, and nothing of size L x L is built.
        attention_mask={"full_attention": mask},
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state


@torch.inference_mode()
def encode(model: nn.Module, visual: VisualTokens) -> Tensor:
    """Features float[K, vision hidden] of a video's kept tokens: the cached ones, or encoded now."""
    model = base_of(model)
    device = model.device
    if visual.features is not None:
        return visual.features.to(device)
    return model.encode_videos(visual.pixel_values.to(device), visual.grid_thw)[visual.compression_mask.to(device)]


def prefill(model: CrashChatModel, tokenizer: PreTrainedTokenizerBase, visual: VisualTokens) -> DynamicCache:
    """Keys and values of a video's prefix. They belong to the adapter that is active now: after a switch, prefill again."""
    device = model.device
    ids = torch.tensor([prefix_ids(tokenizer, visual.seconds, visual.kept_per_frame)], device=device)
    embeddings = model.embed(ids, encode(model, visual))
    cache = DynamicCache(config=model.config.text_config)
    _run(model, embeddings, torch.arange(ids.shape[1], device=device)[None], None, cache)
    return cache


@torch.inference_mode()
def answer_questions(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    visual: VisualTokens,
    questions: ListOf[str],
    max_new_tokens: int = 256,
) -> list[list[int]]:
    """Greedy answers to all questions on one video, as token ids without the closing `<|im_end|>`.

    model: a CrashChatModel or a PEFT model around one, with SDPA attention. max_new_tokens: tokens of an answer at most.
    """
    model = base_of(model)
    device = model.device
    cache = prefill(model, tokenizer, visual)
    prefix_length = cache.get_seq_length()
    cache.batch_repeat_interleave(len(questions))

    # The questions, padded at their ends; what is padding stays unseen for good, so that no position is disturbed.
    asked = [branch_token_ids(tokenizer, Branch(question))[0] for question in questions]
    lengths = torch.tensor([len(ids) for ids in asked], device=device)
    longest = int(lengths.max())
    ids = torch.full((len(asked), longest), tokenizer.pad_token_id, device=device)
    for row, question in enumerate(asked):
        ids[row, : len(question)] = torch.tensor(question, device=device)
    index = torch.arange(longest, device=device)
    real = index[None] < lengths[:, None]
    causal = index[:, None] >= index[None]
    seen_prefix = torch.ones(len(asked), longest, prefix_length, dtype=torch.bool, device=device)
    mask = torch.cat([seen_prefix, causal[None] & real[:, None]], dim=2)
    position_ids = prefix_length + index[None].expand(len(asked), -1)
    embed = model.model.language_model.embed_tokens
    hidden = _run(model, embed(ids), position_ids, mask[:, None], cache)
    last = hidden[torch.arange(len(asked), device=device), lengths - 1]

    seen = torch.cat([seen_prefix[:, 0], real], dim=1)
    answers: list[list[int]] = [[] for _ in asked]
    open_rows = set(range(len(asked)))
    for step in range(max_new_tokens):
        chosen = model.lm_head(last).argmax(dim=-1)
        for row in list(open_rows):
            token = int(chosen[row])
            if token == tokenizer.eos_token_id:
                open_rows.remove(row)
            else:
                answers[row].append(token)
        if not open_rows or step == max_new_tokens - 1:
            break
        seen = torch.cat([seen, seen.new_ones(len(asked), 1)], dim=1)
        position_ids = (prefix_length + lengths + step)[:, None]
        last = _run(model, embed(chosen[:, None]), position_ids, seen[:, None, None], cache)[:, -1]
    return answers


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    """Token ids of an answer as text."""
    return tokenizer.decode(token_ids, skip_special_tokens=True).strip()
