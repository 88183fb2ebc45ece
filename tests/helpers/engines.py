"""A model whose heads engines support, and a server that answers as vLLM's does, with transformers' Qwen2
and PEFT.

The server stands in for vLLM where that is not installed: it speaks the part of its protocol that is used.
"""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from crashchat.checkpoints.engine_export import ADAPTERS
from crashchat.checkpoints.folders import load_model, load_tokenizer, load_video_settings, save_checkpoint
from crashchat.model.videollama3 import CrashChatModel
from tests.helpers.models import CPU


def write_model(base: Path, out: Path, seed: int = 0) -> Path:
    """A random model of tiny_base's sizes, but with 3 heads of 32."""
    tokenizer = load_tokenizer(base)
    config = load_model(base, tokenizer, CPU).config
    config.text_config.num_attention_heads = config.text_config.num_key_value_heads = 3
    torch.manual_seed(seed)
    model = CrashChatModel(config)
    with torch.no_grad():  # as it is initialised it says the same whatever it sees
        for name, parameter in model.named_parameters():
            if "language_model" in name and parameter.ndim == 2:
                parameter.mul_(4)
    save_checkpoint(model, tokenizer, load_video_settings(base), out)
    return out


def load_exported(folder: Path) -> Qwen2ForCausalLM:
    """The language model of an export. In transformers Qwen2 may say how wide its heads are, too."""
    values = json.loads((folder / "config.json").read_text()) | {"model_type": "qwen2"}
    config = Qwen2Config(**values)
    return Qwen2ForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()


def completion(model: torch.nn.Module, end: int, body: dict) -> dict:
    """What vLLM answers to a completion request with embeddings."""
    prompt = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
    tokens: list[int] = []
    first, own = {}, []
    with torch.no_grad():
        while len(tokens) < body["max_tokens"] and end not in tokens:
            words = model.get_input_embeddings()(torch.tensor(tokens, dtype=torch.int64))
            logits = model(inputs_embeds=torch.cat([prompt, words])[None]).logits[0, -1].log_softmax(-1)
            if not tokens:
                first = {f"token_id:{token}": float(logits[token]) for token in body["logprob_token_ids"]}
            tokens.append(int(logits.argmax()))
            own.append(float(logits.max()))
    logprobs = {"token_logprobs": own, "top_logprobs": [first]}
    return {"choices": [{"token_ids": tokens, "logprobs": logprobs}]}


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server with an exported model and its adapters."""
    model: Qwen2ForCausalLM | PeftModel = load_exported(folder)
    end = AutoTokenizer.from_pretrained(folder).eos_token_id
    names = sorted(path.name for path in folder.glob(f"{ADAPTERS}/*"))
    for name in names:
        path = folder / ADAPTERS / name
        if isinstance(model, PeftModel):
            model.load_adapter(path, name)
        else:
            model = PeftModel.from_pretrained(model, path, name)
    lock = threading.Lock()

    def complete(body: dict) -> dict:
        with lock:
            if body["model"] in names:
                assert isinstance(model, PeftModel)
                model.set_adapter(body["model"])
                return completion(model, end, body)
            with model.disable_adapter() if isinstance(model, PeftModel) else nullcontext():
                return completion(model, end, body)

    class Handler(BaseHTTPRequestHandler):
        def _send(self, value: dict) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            served = [{"id": "served", "root": str(folder)}, *({"id": name, "root": name} for name in names)]
            self._send({"data": served})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(complete(body))

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
