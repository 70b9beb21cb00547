"""Two adapters become their mean."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch

from hybridmem_plugins.finetuning.blending import blend
from hybridmem_plugins.finetuning.guard import without_adapter
from hybridmem_plugins.generation import AdapterMismatchError, loading


@pytest.fixture
def base(tiny, tokenizer, tmp_path):
    tiny.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def _adapter(model, folder, seed, rank=2):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    tuned = get_peft_model(copy.deepcopy(model), LoraConfig(r=rank, lora_alpha=4, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    tuned.save_pretrained(folder)
    return folder


def _merged(model, folder):
    tuned = loading.attach_adapter(copy.deepcopy(model), "one", folder)
    return dict(tuned.merge_and_unload().named_parameters())


def test_a_blend_of_full_rank_is_the_weighted_mean(tiny, base, tmp_path):
    parts = [_adapter(tiny, tmp_path / f"part{seed}", seed) for seed in (1, 2)]
    out = blend(parts, tmp_path / "out", weights=[0.25, 0.75], rank=4, model=base, save_dtype="float32")
    one, two, mixed = (_merged(tiny, folder) for folder in (*parts, out))
    for name, value in mixed.items():
        assert torch.allclose(value, 0.25 * one[name] + 0.75 * two[name], atol=1e-4), name
    assert any(not torch.allclose(mixed[name], value, atol=1e-2) for name, value in tiny.named_parameters())


def test_what_cannot_be_blended_is_refused_and_nothing_is_overwritten(tiny, base, tmp_path):
    part = _adapter(tiny, tmp_path / "part", 1)
    with pytest.raises(ValueError, match="two adapters or more"):
        blend([part], tmp_path / "out", model=base)
    with pytest.raises(ValueError, match="a weight for each"):
        blend([part, part], tmp_path / "out", weights=[1.0], model=base)
    with pytest.raises(ValueError, match="holds an adapter already"):
        blend([part, part], part, model=base)
    other = copy.deepcopy(tiny.config)
    other.hidden_size = 64
    foreign = _adapter(type(tiny)(other), tmp_path / "foreign", 3)
    with pytest.raises(AdapterMismatchError):
        blend([part, foreign], tmp_path / "out", model=base)
    assert not (tmp_path / "out").exists()


def test_without_its_adapter_a_model_is_its_base_and_comes_back(tiny, tmp_path):
    tuned = loading.attach_adapter(copy.deepcopy(tiny), "one", _adapter(tiny, tmp_path / "part", 1))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before, plain = tuned(input_ids=ids).logits, tiny.eval()(input_ids=ids).logits
        with without_adapter(tuned):
            assert torch.allclose(tuned(input_ids=ids).logits, plain, atol=1e-6)
        with contextlib.suppress(RuntimeError), without_adapter(tuned):
            raise RuntimeError
        assert torch.equal(tuned(input_ids=ids).logits, before)
    assert not torch.allclose(before, plain, atol=1e-3)
