"""Answers from a vLLM server: prompts go as embeddings, which our side makes of videos and questions.

    visuals -> encode, compress, project (ours) -> embeddings of prefix and question -> vLLM -> tokens

The server (scripts/engine.sh) has the language model of `crashchat convert --to vllm`, and the adapters that
were exported with it as LoRA requests; ours is the rest, the adapters' projectors too. All questions of all
videos are asked at once: the server batches them, and its prefix cache computes what a video's questions to
one adapter share once.
"""

import base64
import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from math import exp
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import httpx2
import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from crashchat.answering.constraints import Constraint
from crashchat.answering.draws import Draw
from crashchat.answering.engines import BASE, Said, VideoContext, certainty_of, see
from crashchat.answering.generate import Heard, unheard
from crashchat.answering.prefix import embed_prompts, embed_tokens
from crashchat.checkpoints.adapters import read_projector
from crashchat.errors import CrashChatError, abbreviate
from crashchat.json_files import Lenient, checked, parse_json
from crashchat.model.videollama3 import CrashChatModel
from crashchat.video.feature_cache import FeatureCache

AT_ONCE = 64  # requests under way
TIMEOUT = 600.0  # seconds without a byte
TOLD = "token_id:"  # how the server writes a token that is asked for by its number


class EngineError(CrashChatError):
    """An engine that cannot be used; the message names its address, what was found and what to do."""

    everywhere = True


class _Served(Lenient):
    id: str
    root: str | None = None


class _Models(Lenient):
    data: list[_Served] = Field(min_length=1)


class _LogProbs(Lenient):
    token_logprobs: list[float] = Field(min_length=1)
    top_logprobs: list[dict[str, float]] = Field(min_length=1)


class _Choice(Lenient):
    token_ids: list[int]
    logprobs: _LogProbs
    finish_reason: str | None = None


class _Completion(Lenient):
    choices: list[_Choice] = Field(min_length=1, max_length=1)


class _Completed(NamedTuple):
    """tokens: without the closing one. told: log-probabilities of those asked for as the first. own: of the
    tokens themselves and the closing one.
    """

    tokens: list[int]
    told: list[float]
    own: list[float]


class VllmEngine:
    """A vLLM server's language model behind our vision encoder, projector and word embeddings."""

    constrains = False

    def __init__(
        self,
        model: CrashChatModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        address: str,
        folder: Path,
        yes_no: list[int],
        max_new_tokens: int,
        adapters: Mapping[str, Path] = MappingProxyType({}),
        feature_cache: FeatureCache | None = None,
    ):
        """model: what convert --to vllm kept for our side of `folder`. address: the server's, http://….

        yes_no, max_new_tokens: as of TorchEngine. adapters: {name: a folder that was exported with the
        model}. Raises EngineError where no server answers there, or one that has another model, and
        CheckpointError for a folder that is no adapter of it.
        """
        self.model, self.tokenizer, self.address = model, tokenizer, address.rstrip("/")
        self.yes_no, self.max_new_tokens, self.feature_cache = yes_no, max_new_tokens, feature_cache
        self._client = httpx2.Client(timeout=TIMEOUT, trust_env=False)
        served = checked(_Models, self._get("/v1/models"), f"{self.address}/v1/models", EngineError).data
        if served[0].root is not None and Path(served[0].root).name != folder.resolve().name:
            raise EngineError(
                f"{self.address}: serves {served[0].root}, expected {folder}; start it with bash "
                f"scripts/engine.sh {folder}"
            )
        own = model.model.projector
        # {adapter: (its name at the server, its projector)}; the base is known by either of two names.
        self._adapters = dict.fromkeys((None, BASE), (served[0].id, own))
        for name, path in adapters.items():
            known = path.resolve().name
            if known not in {one.id for one in served}:
                raise EngineError(
                    f"{self.address}: serves {', '.join(one.id for one in served)}, not the adapter {known}; "
                    f"start it with bash scripts/engine.sh {folder}"
                )
            self._adapters[name] = known, read_projector(path, own)

    def _get(self, path: str, body: dict | None = None) -> object:
        """The JSON that the server answers with; body: of a POST. Raises EngineError."""
        url = f"{self.address}{path}"
        try:
            answer = self._client.post(url, json=body) if body else self._client.get(url)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise EngineError(
                f"{url}: no engine answers ({type(error).__name__}: {error}); start one with bash "
                "scripts/engine.sh MODEL, or give its address"
            ) from error
        if answer.status_code != 200:
            raise EngineError(f"{url}: answers {answer.status_code}: {abbreviate(answer.text, 300)}")
        try:
            return parse_json(answer.content)
        except ValueError as error:
            raise EngineError(f"{url}: answers {abbreviate(answer.text)}, expected JSON") from error

    def _prompts(
        self, context: VideoContext, questions: list[list[str]], adapter: str | None
    ) -> Iterator[Tensor]:
        self.model.model.projector = self._adapters[adapter][1]
        features = see(self.model, context, self.feature_cache)
        return embed_prompts(
            self.model, self.tokenizer, context.visuals, features=features, questions=questions
        )

    def answer(
        self,
        context: VideoContext,
        questions: list[list[str]],
        adapter: str | None,
        constraints: list[list[Constraint | None]] | None,
        most: int | None = None,
        heard: Heard = unheard,
        listed: list[list[tuple[str, ...]]] | None = None,
        draws: list[list[Draw]] | None = None,
    ) -> list[list[Said]]:
        """See Engine. Raises EngineError."""
        assert constraints is None and draws is None, "refused before anything is asked"
        del heard, listed  # the server is asked for whole answers; Answerer refuses lists
        at_most = min(most or self.max_new_tokens, self.max_new_tokens)
        ask = partial(self._complete, self._adapters[adapter][0], told=self.yes_no, most=at_most)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = pool.map(ask, self._prompts(context, questions, adapter))
            said = (Said(tokens, _share(*told), certainty_of(own)) for tokens, told, own in found)
            return [list(islice(said, len(texts))) for texts in questions]

    def attended(
        self, context: VideoContext, questions: list[list[str]], adapter: str | None
    ) -> list[list[Tensor]]:
        """Raises EngineError."""
        del context, questions, adapter
        raise EngineError("a vLLM server does not tell what it attends to; give engine=torch")

    def likelihoods(
        self,
        context: VideoContext,
        question: str,
        adapter: str | None,
        *,
        begun: list[int],
        tokens: list[int],
    ) -> list[float]:
        """See Engine. Raises EngineError."""
        (prompt,) = self._prompts(context, [[question]], adapter)
        prompt = torch.cat([prompt, embed_tokens(self.model, begun)])
        name = self._adapters[adapter][0]
        return [exp(told) for told in self._complete(name, prompt, told=tokens, most=1).told]

    def _complete(self, model: str, prompt: Tensor, told: list[int], most: int) -> _Completed:
        """What comes behind a prompt, of `most` tokens at most.

        told: tokens whose log-probabilities are wanted as the first. model: the server's name of the base or
        of an adapter.
        """
        body = {
            "model": model,
            "prompt_embeds": _packed(prompt),
            "max_tokens": most,
            "temperature": 0,
            "repetition_penalty": 1.0,
            "stop_token_ids": [self.tokenizer.eos_token_id],
            "logprobs": 1,
            "logprob_token_ids": told,
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
        }
        where = f"{self.address}/v1/completions"
        choice = checked(_Completion, self._get("/v1/completions", body), where, EngineError).choices[0]
        tokens, first = choice.token_ids, choice.logprobs.top_logprobs[0]
        try:
            probabilities = [first[f"{TOLD}{token}"] for token in told]
        except KeyError as error:
            raise EngineError(
                f"{where}: tells no probability of token {error}; expected vLLM 0.32 or newer, as "
                "requirements-vllm.txt names it"
            ) from error
        ended = tokens[-1:] == [self.tokenizer.eos_token_id]
        return _Completed(tokens[:-1] if ended else tokens, probabilities, choice.logprobs.token_logprobs)


def _share(one: float, other: float) -> float:
    """The probability of one of two events, from their log-probabilities."""
    return 1.0 / (1.0 + exp(min(700.0, other - one)))


def _packed(prompt: Tensor) -> str:
    """Embeddings as the server takes them: torch's own file in base64."""
    file = io.BytesIO()
    # A copy: a slice would be written with all that it is cut from.
    torch.save(prompt.cpu().clone(), file)
    return base64.b64encode(file.getvalue()).decode("ascii")
