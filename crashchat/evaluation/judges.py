"""Who judges a text: a language model in a folder, or one behind an OpenAI-compatible address."""

import os
import re
import time
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2
from pydantic import Field

from crashchat.errors import CrashChatError, abbreviate, opening
from crashchat.json_files import Lenient, checked, parse_json
from crashchat.provenance import content_hash, text_hash

RIGHT, WRONG = "CORRECT", "INCORRECT"
KEY = "CRASHCHAT_JUDGE_KEY"  # the environment variable of an address's key, which is written nowhere
TIMEOUT = 120.0  # seconds without a byte
TRIES = 5  # of one question
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between them: twice as long each time


class JudgeError(CrashChatError):
    """A judge that cannot be used or gave no verdict; the message names it, what was found and what to do."""


class Judge(Protocol):
    """Somebody who replies CORRECT or INCORRECT."""

    identity: dict[str, str]
    """What its verdicts depend on."""

    def ask(self, prompt: str) -> bool:
        """Whether the verdict is CORRECT. Raises JudgeError where there is none."""


def open_judge(place: str, name: str | None) -> Judge:
    """The judge at an address (http://… or https://…), of which `name` is the model, or in a folder.

    Raises JudgeError for what cannot be one.
    """
    if re.match(r"https?://", place):
        if not name:
            raise JudgeError(f"--judge {place}: --judge-name is missing; expected the model's name there")
        return AddressJudge(place, name)
    if name:
        raise JudgeError(f"--judge {place}: is no address, and a folder takes no --judge-name {name}")
    return FolderJudge(Path(place))


class FolderJudge:
    """A causal language model of transformers, which takes the likelier of the two words as the next."""

    def __init__(self, folder: Path) -> None:
        """Raises JudgeError for a folder that is no such model."""
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from crashchat.processes import choose_device, choose_dtype

        expected = "expected the folder of a causal language model as transformers saves it"
        if not (folder / "config.json").is_file():
            raise JudgeError(f"--judge {folder}: no config.json in it; {expected}, or an address http://…")
        self.folder, device = folder, choose_device()
        dtype = choose_dtype(device)
        try:
            # Said at all, since transformers would otherwise ask at a terminal.
            how: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, **how)
            # transformers' types do not tell of the report.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, output_loading_info=True, **how
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise JudgeError(f"--judge {folder}: does not load: {opening(error)}; {expected}") from error
        model, report = loaded
        if report["missing_keys"]:
            missing = abbreviate(sorted(report["missing_keys"]))
            raise JudgeError(f"--judge {folder}: lacks the weights {missing}; {expected}")
        self.model = model.to(device).eval()
        template = self.tokenizer.chat_template or ""
        self.identity = {
            "model": folder.resolve().name,
            "sha256": content_hash(folder),
            "chat_template_sha256": text_hash([str(template)]),
            "dtype": str(dtype).removeprefix("torch."),
        }
        self._most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self._no_grad = torch.inference_mode

    def ask(self, prompt: str) -> bool:
        """Whether CORRECT is likelier than INCORRECT behind the prompt, all tokens of the words counted."""
        right, wrong = (self._tokens(prompt, word) for word in (RIGHT, WRONG))
        # Whatever the tokenizer makes of the seam: what both have in common is the prompt.
        pairs = enumerate(zip(right, wrong, strict=False))
        common = next((at for at, (one, other) in pairs if one != other), 0)
        if not common:
            raise JudgeError(f"--judge {self.folder}: its tokenizer tells {RIGHT} from {WRONG} nowhere")
        if self._most is not None and max(len(right), len(wrong)) > self._most:
            raise JudgeError(
                f"--judge {self.folder}: a prompt of {len(right)} tokens is more than the {self._most} that "
                "it takes; take another judge"
            )
        return self._likelihood(right, common) > self._likelihood(wrong, common)

    def _tokens(self, prompt: str, word: str) -> list[int]:
        if self.tokenizer.chat_template is None:
            return self.tokenizer(f"{prompt} {word}")["input_ids"]
        turns = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text + word, add_special_tokens=False)["input_ids"]

    def _likelihood(self, tokens: list[int], common: int) -> float:
        """Log-probability of all tokens from `common` on."""
        import torch

        with self._no_grad():
            logits = self.model(torch.tensor([tokens], device=self.model.device)).logits[0, common - 1 : -1]
            behind = torch.tensor(tokens[common:], device=logits.device)
            return logits.float().log_softmax(dim=-1).gather(1, behind[:, None]).sum().item()


class _Message(Lenient):
    content: str


class _Choice(Lenient):
    message: _Message


class _Completion(Lenient):
    choices: list[_Choice] = Field(min_length=1)


class AddressJudge:
    """A model behind an address that takes OpenAI's chat completions, asked at temperature 0."""

    def __init__(
        self, address: str, name: str, timeout: float = TIMEOUT, first_wait: float = FIRST_WAIT
    ) -> None:
        """address: what /chat/completions follows, http://localhost:8000/v1. timeout, first_wait: seconds.

        Raises JudgeError for what is no such address.
        """
        try:
            parts = urlsplit(address)
            _ = parts.port  # which may be no number
            good = bool(parts.hostname) and not (parts.username or parts.password or parts.query)
        except ValueError:
            good = False
        if not good:
            raise JudgeError(
                "--judge: expected an address like http://localhost:8000/v1, without a user, a password or a "
                f"query in it; a key goes into the environment variable {KEY}"
            )
        self.url, self.first_wait = f"{address.rstrip('/')}/chat/completions", first_wait
        self.identity = {"address": address.rstrip("/"), "model": name}
        key = os.environ.get(KEY, "").strip()
        if not re.fullmatch(r"[!-~]*", key):
            raise JudgeError(f"{KEY} holds what no key can: a blank, or a character that is not ASCII")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.Client(timeout=timeout, headers=headers)

    def ask(self, prompt: str) -> bool:
        """The verdict in the reply. A connection that fails, a timeout, status 429 and those from 500 on are
        tried again.
        """
        body = {
            "model": self.identity["model"],
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
        }
        for tried in range(1, TRIES + 1):
            wait, found = self.first_wait * 2 ** (tried - 1), ""
            try:
                reply = self._client.post(self.url, json=body)
                if reply.status_code == 200:
                    return self._verdict(reply.content)
                found = f"status {reply.status_code}, {abbreviate(reply.text)}"
                if reply.status_code != 429 and reply.status_code < 500:
                    raise JudgeError(
                        f"{self.url}: {found}; expected an OpenAI-compatible address, with a key in {KEY} if "
                        "it wants one"
                    )
                wait = _asked_wait(reply.headers.get("Retry-After"), wait)
            except httpx2.TransportError as error:
                found = f"{type(error).__name__} {opening(error)}".strip()
            if tried < TRIES:
                time.sleep(min(wait, LONGEST_WAIT))
        raise JudgeError(
            f"{self.url}: no verdict in {TRIES} tries, the last: {found}; the same command goes on where it "
            "stopped"
        )

    def _verdict(self, content: bytes) -> bool:
        try:
            value = parse_json(content)
        except ValueError as error:
            raise JudgeError(
                f"{self.url}: the reply is not JSON ({error}); expected a chat completion"
            ) from error
        words = checked(_Completion, value, f"{self.url}: the reply", JudgeError).choices[0].message.content
        said = re.sub(r"^\s*<think>.*?</think>", "", words, flags=re.DOTALL)  # aloud before it speaks
        verdict = re.fullmatch(rf"[\W_]*(?:verdict[\W_]*)?({RIGHT}|{WRONG})[\W_]*", said, re.IGNORECASE)
        if not verdict:
            raise JudgeError(
                f"{self.url}: the reply {abbreviate(words)} is no verdict, expected {RIGHT} or {WRONG}; take "
                "a model that keeps to it"
            )
        return verdict[1].upper() == RIGHT


def _asked_wait(header: str | None, otherwise: float) -> float:
    """Seconds that a Retry-After header asks for."""
    return float(header) if header and re.fullmatch(r"\d{1,9}", header) else otherwise
