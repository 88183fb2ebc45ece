"""BERTScore F1 (Zhang et al., 2020) with a model folder that the user names; nothing is downloaded.

The plain score: no idf weights, no rescaling to a baseline, as the released scripts use it with
roberta-large.
"""

from collections.abc import Iterator
from pathlib import Path

# Which layer's states the authors chose, by the number of layers; of other models the last layer is taken.
LAYERS = {12: 9, 24: 17}  # bert-base-uncased (roberta-base: 10) and roberta-large
BATCH = 32


class Encoder:
    """A loaded text encoder. layers: how many it has."""

    def __init__(self, path: str | Path, most_tokens: int | None = None):
        """path: a transformers folder. most_tokens: of a text, where that is fewer than the model can take.

        Raises OSError for a folder that is no model.
        """
        import torch
        from transformers import AutoModel, AutoTokenizer

        if not (Path(path) / "config.json").is_file():
            raise OSError(f"{path}: no config.json in it; expected the folder of a downloaded model")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self.model = AutoModel.from_pretrained(path, local_files_only=True).to(self.device).eval()
        self.layers = self.model.config.num_hidden_layers
        # RoBERTa has other tokens for a word at the start of a text than behind a space; bert-score takes the
        # latter. Its positions start at 2.
        self.space, first = (" ", 2) if self.model.config.model_type == "roberta" else ("", 0)
        limit = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings - first)
        self.limit = min(limit, most_tokens or limit)

    def states(self, texts: list[str], title: str, layer: int | None = None) -> Iterator[tuple]:
        """(text, float32[tokens, hidden], bool[tokens]) of each text: a layer's states, the last one's by
        default, and False for the tokens that open and close a text.
        """
        import torch
        from tqdm import tqdm

        batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        for batch in tqdm(batches, desc=title, unit="batch", leave=False, disable=None):
            encoded = self.tokenizer(
                [self.space + text.strip() for text in batch],
                padding=True,
                truncation=True,
                max_length=self.limit,
                return_special_tokens_mask=True,
                return_tensors="pt",
            ).to(self.device)
            content = (encoded.pop("special_tokens_mask") == 0).cpu()
            with torch.inference_mode():
                hidden = self.model(**encoded, output_hidden_states=True).hidden_states[layer or self.layers]
            there = encoded["attention_mask"].cpu() == 1
            for text, vectors, words, inside in zip(batch, hidden.float().cpu(), content, there, strict=True):
                yield text, vectors[inside], words[inside]


class BertScore:
    """A loaded model.

    path: a transformers folder; layer: whose hidden states are compared (1 is the first).
    """

    def __init__(self, path: str | Path, layer: int | None = None):
        """Raises OSError for a folder that is no model, ValueError for a layer that it has not."""
        self.encoder = Encoder(path)
        depth = self.encoder.layers
        self.layer = layer if layer is not None else LAYERS.get(depth, depth)
        if not 1 <= self.layer <= depth:
            raise ValueError(f"{path}: has layers 1 to {depth}, not {self.layer}")
        self._known: dict[tuple[str, str], float] = {}

    def scores(self, pairs: list[tuple[str, str]]) -> list[float]:
        """F1 of each (truth, answer) pair; 0 for an empty answer. Each pair is computed once."""
        import torch

        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        texts = sorted({text for pair in new for text in pair if text.strip()}, key=len)
        states = {
            text: (torch.nn.functional.normalize(vectors, dim=-1), words)
            for text, vectors, words in self.encoder.states(texts, "BERTScore", self.layer)
        }
        for truth, answer in new:
            self._known[truth, answer] = (
                _f1(states[truth], states[answer]) if truth in states and answer in states else 0.0
            )
        return [self._known[pair] for pair in pairs]


def _f1(truth: tuple, answer: tuple) -> float:
    """Greedy matching by cosine of two texts' states:
    each word finds its like among all tokens of the other text.

    The opening and closing tokens may be found but don't search, as in bert-score.
    """
    likeness = answer[0] @ truth[0].T
    precision = likeness.max(dim=1).values[answer[1]].mean().item()
    recall = likeness.max(dim=0).values[truth[1]].mean().item()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
