"""BERTScore F1 (Zhang et al., 2020) with a model folder that the user names; nothing is downloaded.

The plain score: no idf weights, no rescaling to a baseline, as the released scripts use it with
roberta-large.
"""

from pathlib import Path

# Which layer's states the authors chose, by the number of layers; of other models the last layer is taken.
LAYERS = {12: 9, 24: 17}  # bert-base-uncased (roberta-base: 10) and roberta-large
BATCH = 32


class BertScore:
    """A loaded model.

    path: a transformers folder; layer: whose hidden states are compared (1 is the first).
    """

    def __init__(self, path: str | Path, layer: int | None = None):
        """Raises OSError for a folder that is no model, ValueError for a layer that it has not."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        if not (Path(path) / "config.json").is_file():
            raise OSError(
                f"{path}: no config.json in it; --bertscore-model names the folder of a downloaded model, "
                "e.g. roberta-large"
            )
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self.model = AutoModel.from_pretrained(path, local_files_only=True).to(self.device).eval()
        depth = self.model.config.num_hidden_layers
        self.layer = layer if layer is not None else LAYERS.get(depth, depth)
        if not 1 <= self.layer <= depth:
            raise ValueError(f"{path}: has layers 1 to {depth}, not {self.layer}")
        self._known: dict[tuple[str, str], float] = {}

    def f1(self, pairs: list[tuple[str, str]]) -> list[float]:
        """F1 of each (truth, answer) pair; 0 for an empty answer. Each pair is computed once."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        states = self._states(sorted({text for pair in new for text in pair if text.strip()}, key=len))
        for truth, answer in new:
            self._known[truth, answer] = (
                _f1(states[truth], states[answer]) if truth in states and answer in states else 0.0
            )
        return [self._known[pair] for pair in pairs]

    def _states(self, texts: list[str]) -> dict:
        """{text: (float32[tokens, hidden] of unit length, bool[tokens])};
        False for the tokens that open and close a text.
        """
        import torch
        from tqdm import tqdm

        states = {}
        # RoBERTa has other tokens for a word at the start of a text than behind a space; bert-score takes the
        # latter. Its positions start at 2.
        space, first = (" ", 2) if self.model.config.model_type == "roberta" else ("", 0)
        limit = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings - first)
        batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        for batch in tqdm(batches, desc="BERTScore", unit="batch", leave=False, disable=None):
            encoded = self.tokenizer(
                [space + text.strip() for text in batch],
                padding=True,
                truncation=True,
                max_length=limit,
                return_special_tokens_mask=True,
                return_tensors="pt",
            ).to(self.device)
            content = (encoded.pop("special_tokens_mask") == 0).cpu()
            with torch.inference_mode():
                hidden = self.model(**encoded, output_hidden_states=True).hidden_states[self.layer]
            hidden = torch.nn.functional.normalize(hidden.float(), dim=-1).cpu()
            for text, vectors, words, there in zip(
                batch, hidden, content, encoded["attention_mask"].cpu() == 1, strict=True
            ):
                states[text] = vectors[there], words[there]
        return states


def _f1(truth: tuple, answer: tuple) -> float:
    """Greedy matching by cosine of two texts' states:
    each word finds its like among all tokens of the other text.

    The opening and closing tokens may be found but don't search, as in bert-score.
    """
    likeness = answer[0] @ truth[0].T
    precision = likeness.max(dim=1).values[answer[1]].mean().item()
    recall = likeness.max(dim=0).values[truth[1]].mean().item()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
