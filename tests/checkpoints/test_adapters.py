"""Adapters as folders: what they hold, whose base they are of, and two on one base."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from crashchat.answering.generate import answer_from_prefix
from crashchat.answering.prefix import prefill
from crashchat.checkpoints.adapters import load_adapter
from crashchat.checkpoints.folders import (
    load_model,
)
from crashchat.checkpoints.layouts import (
    CheckpointError,
)
from crashchat.model.lora import add_adapter
from tests.helpers.models import CPU, visual_of


def test_an_adapter_saves_projector_and_lora_and_refuses_another_base(tiny_base, tiny_tokenizer, tmp_path):
    model = add_adapter(load_model(tiny_base, tiny_tokenizer, CPU), rank=4, alpha=8, dropout=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.01
    model.save_pretrained(tmp_path / "adapter")
    loaded = load_adapter(load_model(tiny_base, tiny_tokenizer, CPU), tmp_path / "adapter")
    expected = model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())

    with pytest.raises(CheckpointError, match="no adapter at"):
        load_adapter(load_model(tiny_base, tiny_tokenizer, CPU), tmp_path)
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    first = next(key for key in weights if "lora_A" in key)
    weights[first] = torch.zeros(4, 50)
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="does not fit the base model"):
        load_adapter(load_model(tiny_base, tiny_tokenizer, CPU), tmp_path / "adapter")


def test_an_adapter_names_its_base_and_loads_without_a_warning(tiny_base, copy, tiny_tokenizer, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trained = add_adapter(load_model(tiny_base, tiny_tokenizer, CPU), rank=2, alpha=4, dropout=0.0)
        trained.save_pretrained(tmp_path / "adapter")
        written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert written["base_model_name_or_path"] == str(tiny_base)
        loaded = load_adapter(load_model(copy, tiny_tokenizer, CPU), tmp_path / "adapter")
    assert loaded.peft_config["default"].base_model_name_or_path == str(copy)


def test_two_adapters_share_a_base_and_each_is_as_if_alone(tiny_base, tiny_tokenizer, tmp_path):
    def base():
        return load_model(tiny_base, tiny_tokenizer, CPU)

    visual, questions = visual_of(frames=3), ["Is there a car?", "Why?"]
    alone = {}
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model = add_adapter(base(), rank=4 + seed, alpha=8, dropout=0.5)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.3 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / name)
        prefix = prefill(model.eval(), tiny_tokenizer, [visual])
        alone[name] = answer_from_prefix(
            model, tiny_tokenizer, prefix=prefix, questions=[questions], max_new_tokens=8
        )
    assert alone["one"][0] != alone["two"][0]

    model = load_adapter(base(), tmp_path / "one", "one")
    model = load_adapter(model, tmp_path / "two", "two")
    assert model.active_adapter == "one"
    for name in ("one", "two", "one"):
        model.set_adapter(name)
        answers, logits, _ = answer_from_prefix(
            model,
            tiny_tokenizer,
            prefix=prefill(model, tiny_tokenizer, [visual]),
            questions=[questions],
            max_new_tokens=8,
        )
        assert answers == alone[name][0] and torch.equal(logits[0], alone[name][1][0])
    with pytest.raises(CheckpointError, match="has an adapter 'two' already"):
        load_adapter(model, tmp_path / "one", "two")
    with pytest.raises(CheckpointError, match="does not fit the base model"):
        misfit = load_file(tmp_path / "one" / "adapter_model.safetensors")
        misfit[next(key for key in misfit if "projector" in key)] = torch.zeros(3, 3)
        save_file(misfit, tmp_path / "one" / "adapter_model.safetensors", metadata={"format": "pt"})
        load_adapter(model, tmp_path / "one", "three")
