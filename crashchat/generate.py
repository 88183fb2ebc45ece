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
    """A video's vision features, float[N, vision hidden]. Adapters that leave the vision encoder alone share them."""
    model = base_of(model)
    return model.encode_videos(visual.pixel_values.to(model.device), visual.grid_thw)


@torch.inference_mode()
def prefill(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, visual: VisualTokens, features: Tensor | None = None
) -> DynamicCache:
    """Keys and values of a video's prefix. They belong to the adapter that is active now: after a switch, prefill again.

    features: what encode gave for this video, where it is at hand.
    """
    model = base_of(model)
    device = model.device
    ids = torch.tensor([prefix_ids(tokenizer, visual.seconds, visual.kept_per_frame)], device=device)
    features = encode(model, visual) if features is None else features
    embeddings = model.embed(ids, features, visual.compression_mask.to(device))
    cache = DynamicCache(config=model.config.text_config)
    _run(model, embeddings, torch.arange(ids.shape[1], device=device)[None], None, cache)
    return cache


def _repeated(prefix: DynamicCache, rows: int, model: CrashChatModel) -> DynamicCache:
    """A copy of a prefix for each of `rows` questions; the prefix itself stays as it is, for further questions."""
    copy = DynamicCache(config=model.config.text_config)
    for index, layer in enumerate(prefix.layers):
        copy.update(layer.keys.repeat_interleave(rows, dim=0), layer.values.repeat_interleave(rows, dim=0), index)
    return copy


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
    return answer_from_prefix(model, tokenizer, prefill(model, tokenizer, visual), questions, max_new_tokens)[0]


@torch.inference_mode()
def answer_from_prefix(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prefix: DynamicCache,
    questions: ListOf[str],
    max_new_tokens: int = 256,
) -> tuple[list[list[int]], Tensor]:
    """Greedy answers as from answer_questions, and float[questions, vocabulary], the logits of each answer's first token.

    prefix: what prefill gave, under the adapter that is active now; it is not changed.
    """
    model = base_of(model)
    device = model.device
    prefix_length = prefix.get_seq_length()
    cache = _repeated(prefix, len(questions), model)

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
    first_logits = logits = model.lm_head(last)
    for step in range(max_new_tokens):
        chosen = logits.argmax(dim=-1)
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
        logits = model.lm_head(last)
    return answers, first_logits


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    """Token ids of an answer as text."""
    return tokenizer.decode(token_ids, skip_special_tokens=True).strip()
