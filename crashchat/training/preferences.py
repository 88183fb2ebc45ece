"""Learning from pairs of answers: both are branches of one prefix, and the better one becomes likelier.

Direct preference optimization (arXiv 2305.18290):

    loss = -log sigmoid(beta * (by how much the better answer is likelier than the worse one,
                                more than it was at the start))
"""

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor

from crashchat.data.annotations import Question
from crashchat.data.pairs import Pair
from crashchat.model.sequence import Branch
from crashchat.second_stages import PreferenceConfig
from crashchat.training.batches import QuestionDataset
from crashchat.training.start import at_the_start
from crashchat.training.trainer import QuestionTrainer
from crashchat.video.tokens import VisualTokens


class PairDataset(QuestionDataset):
    """Questions with two answers each, the better one before the worse."""

    def branches(self, questions: list[Question]) -> list[Branch]:
        """Both answers of each question."""
        found = []
        for question in questions:
            assert isinstance(question, Pair), "load_pairs made them"
            found += [Branch(question.asked, question.answer), Branch(question.asked, question.rejected)]
        return found


class PreferenceTrainer(QuestionTrainer):
    """A trainer whose loss is of pairs of branches."""

    config: PreferenceConfig

    def count_of(self, batch: dict) -> int:
        """The pairs of a batch."""
        return len(batch["label_counts"]) // 2

    def run_model(self, model, batch: dict, videos: list[VisualTokens] | None) -> Tensor:
        """The loss summed over the pairs of a batch."""
        unwrapped = self.accelerator.unwrap_model(self.model)
        return pair_losses(model, unwrapped, batch, self.config.beta).sum()


def by_how_much(model, batch: dict) -> Tensor:
    """float32[pairs]: log-probability of each better answer minus that of the worse one."""
    log_probs = -model(**batch, temperature=1.0).token_losses
    answers = torch.stack([part.sum() for part in log_probs.split(batch["label_counts"])])
    return answers[0::2] - answers[1::2]


def pair_losses(model, unwrapped: PeftModel, batch: dict, beta: float) -> Tensor:
    """float32[pairs]. unwrapped: the model without what processes share it by."""
    likelier = by_how_much(model, batch)
    with torch.no_grad(), at_the_start(unwrapped):
        before = by_how_much(unwrapped, batch)
    return preference_losses(likelier, before, beta)


def preference_losses(likelier: Tensor, before: Tensor, beta: float) -> Tensor:
    """float32[pairs]. likelier, before: by how much the better answer is, now and at the start."""
    return -F.logsigmoid(beta * (likelier - before))
