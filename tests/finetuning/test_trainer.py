"""A tiny model trains for a few steps: loss, KL at step 0, resume, determinism, round trip of the adapter."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from hybridmem_plugins.finetuning.guarded_sft import collate, guarded_loss
from hybridmem_plugins.finetuning.rows import RowEncoder
from hybridmem_plugins.finetuning.trainer import TrainConfig, Trainer, arrange
from hybridmem_plugins.generation import AdapterMismatchError, LocalModel, loading

CONFIG = TrainConfig(
    rank=4, alpha=8, learning_rate=2e-2, epochs=4, batch_size=4, guard_share=0.5, kl_weight=1.0, max_length=256, seed=3
)


def _train(tiny, tokenizer, rows, guards, folder, **options):
    config = options.pop("config", CONFIG)
    trainer = Trainer(copy.deepcopy(tiny), folder, config, tokenizer=tokenizer)
    return trainer, trainer.train(rows, guards, progress=False, **options)


def _weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def _peft(tiny):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(tiny, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))


def _batch(tokenizer, rows, guards):
    encoder = RowEncoder(tokenizer)
    return collate([encoder.encode(r) for r in rows[:4]], [encoder.encode_guard(g) for g in guards[:2]], 0)


def test_kl_is_zero_before_the_first_step_and_not_after(tiny, tokenizer, rows, guards):
    model, batch = _peft(tiny).train(), _batch(tokenizer, rows, guards)
    loss, answers, kl = guarded_loss(model, batch, CONFIG, step=0)
    assert float(kl) == pytest.approx(0.0, abs=1e-7)
    assert float(loss) == pytest.approx(float(answers), abs=1e-6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    loss, answers, kl = guarded_loss(model, batch, CONFIG, step=0)
    assert float(kl) > 1e-3
    assert float(loss) == pytest.approx(float(answers + CONFIG.kl_weight * kl), rel=1e-5)


def test_the_answer_loss_is_the_mean_over_rows_of_their_mean_cross_entropy(tiny, tokenizer, rows, guards):
    model, batch = _peft(tiny).eval(), _batch(tokenizer, rows, guards)
    _, answers, _ = guarded_loss(model, batch, CONFIG, step=0)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels, expected = batch["labels"][:, 1:], []
    for own, wanted in zip(logits, labels, strict=True):
        keep = wanted != -100
        if not keep.any():
            continue  # a guard row
        expected.append(torch.nn.functional.cross_entropy(own[keep], wanted[keep]))
    assert float(answers) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-4)


def test_prompt_tokens_get_no_gradient_from_the_answer_loss(tiny, tokenizer, rows):
    """Changing which prompt token comes *next* cannot change the loss: prompts are read, never predicted."""
    model = _peft(tiny).train()
    config = TrainConfig(kl_weight=0.0)
    batch = _batch(tokenizer, rows, [{"text": "the engine"}] * 2)
    changed = {**batch, "labels": batch["labels"].clone()}
    first = int((batch["labels"][0] != -100).nonzero()[0])
    assert (batch["labels"][:, :first] == -100).all()
    assert float(guarded_loss(model, batch, config, 0)[0]) == float(guarded_loss(model, changed, config, 0)[0])


def test_training_lowers_the_loss_and_the_guard_keeps_the_base(tiny, tokenizer, rows, guards, tmp_path):
    _, guarded = _train(tiny, tokenizer, rows, guards, tmp_path / "guarded")
    assert guarded.steps == 24
    assert guarded.log[-1]["answer_loss"] < guarded.log[0]["answer_loss"] - 0.1
    free = TrainConfig(**{**_fields(CONFIG), "kl_weight": 0.0})
    _train(tiny, tokenizer, rows, guards, tmp_path / "free", config=free)
    drift = {name: _drift(tiny, tokenizer, guards, tmp_path / name) for name in ("guarded", "free")}
    assert drift["guarded"] < 0.7 * drift["free"]


def _fields(config):
    from dataclasses import asdict

    return asdict(config)


def _drift(tiny, tokenizer, guards, folder):
    model = loading.attach_adapter(copy.deepcopy(tiny), "a", folder)
    ids = torch.tensor([RowEncoder(tokenizer).encode_guard(guards[0]).input_ids])
    with torch.no_grad():
        tuned = model(ids).logits.log_softmax(-1)
        with model.disable_adapter():
            base = model(ids).logits.log_softmax(-1)
    return float((base.exp() * (base - tuned)).sum(-1).mean())


def test_the_same_seed_gives_the_same_adapter_and_another_does_not(tiny, tokenizer, rows, guards, tmp_path):
    for name in ("one", "two"):
        _train(tiny, tokenizer, rows, guards, tmp_path / name, max_steps=3)
    other = TrainConfig(**{**_fields(CONFIG), "seed": 4})
    _train(tiny, tokenizer, rows, guards, tmp_path / "other", config=other, max_steps=3)
    one, two, third = (_weights(tmp_path / name) for name in ("one", "two", "other"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], third[key]) for key in one)


def test_a_run_killed_half_way_resumes_to_the_same_adapter(tiny, tokenizer, rows, guards, tmp_path):
    config = TrainConfig(**{**_fields(CONFIG), "save_steps": 3, "epochs": 1})
    _, whole = _train(tiny, tokenizer, rows, guards, tmp_path / "whole", config=config)

    class KilledError(Exception):
        pass

    trainer = Trainer(copy.deepcopy(tiny), tmp_path / "killed", config, tokenizer=tokenizer)
    original = trainer._trainer

    def killing(*args):
        inner = original(*args)
        compute = inner.compute_loss

        def until_step_four(*a, **k):
            if inner.state.global_step == 4:
                raise KilledError
            return compute(*a, **k)

        inner.compute_loss = until_step_four
        return inner

    trainer._trainer = killing
    with pytest.raises(KilledError):
        trainer.train(rows, guards, progress=False)
    _, resumed = _train(tiny, tokenizer, rows, guards, tmp_path / "killed", config=config)
    assert resumed.steps == whole.steps == 6
    one, two = _weights(tmp_path / "whole"), _weights(tmp_path / "killed")
    assert all(torch.allclose(one[key], two[key], atol=1e-6) for key in one)


def test_micro_batches_give_the_same_first_step(tiny, tokenizer, rows, guards, tmp_path):
    plain = TrainConfig(**{**_fields(CONFIG), "kl_weight": 0.0, "learning_rate": 1e-2})
    parts = TrainConfig(**{**_fields(plain), "micro_batches": 2})
    _train(tiny, tokenizer, rows, guards, tmp_path / "plain", config=plain, max_steps=1)
    _train(tiny, tokenizer, rows, guards, tmp_path / "parts", config=parts, max_steps=1)
    one, two = _weights(tmp_path / "plain"), _weights(tmp_path / "parts")
    assert all(torch.allclose(one[key], two[key], atol=1e-3) for key in one)


def test_the_adapter_comes_back_as_it_was_trained(tiny, tokenizer, rows, guards, tmp_path):
    trainer, _ = _train(tiny, tokenizer, rows, guards, tmp_path / "a")
    ids = torch.tensor([RowEncoder(tokenizer).encode(rows[0]).input_ids])
    with torch.no_grad():
        expected = trainer.trained.eval()(ids).logits
        back = loading.attach_adapter(copy.deepcopy(tiny), "back", tmp_path / "a")
        assert torch.allclose(back(ids).logits, expected, atol=1e-5)
        loading.set_adapter_scale(back, "back", 0.0)
        assert torch.allclose(back(ids).logits, tiny(ids).logits, atol=1e-6)
    facts = json.loads((tmp_path / "a" / "training.json").read_text())
    assert facts["config"]["seed"] == 3


def test_named_adapters_switch_per_call_and_a_misfit_is_named(tiny, tokenizer, rows, guards, tmp_path):
    _train(tiny, tokenizer, rows, guards, tmp_path / "a")
    other = TrainConfig(**{**_fields(CONFIG), "seed": 9, "learning_rate": 5e-2})
    _train(tiny, tokenizer, rows, guards, tmp_path / "b", config=other)
    local = LocalModel.from_objects(copy.deepcopy(tiny), tokenizer)
    chat = rows[0]["messages"][:-1]
    alone = local.chat(chat, max_new_tokens=8)
    local.load_adapter("a", tmp_path / "a")
    local.load_adapter("b", tmp_path / "b")
    assert local.adapters == ["base", "a", "b"]
    first, second = (local.chat(chat, adapter=name, max_new_tokens=8) for name in ("a", "b"))
    assert local.chat(chat, adapter="base", max_new_tokens=8).text == alone.text
    assert local.chat(chat, adapter="a", max_new_tokens=8) == first
    assert "lovelace" in first.text or first.text != alone.text
    assert second.adapter == "b"
    wider = type(tiny)(type(tiny.config)(**{**tiny.config.to_dict(), "hidden_size": 64}))
    with pytest.raises(AdapterMismatchError, match="does not fit"):
        LocalModel.from_objects(wider, tokenizer).load_adapter("a", tmp_path / "a")


def test_batches_hold_rows_of_like_length_and_every_row_once():
    lengths = [10 * (n % 7) + n for n in range(64)]
    order = arrange(lengths, 8, 2, seed=1)
    assert sorted(order[:64]) == list(range(64))
    assert order[:64] != order[64:]
    spread = [
        max(lengths[i] for i in order[at : at + 8]) - min(lengths[i] for i in order[at : at + 8])
        for at in range(0, 64, 8)
    ]
    assert sum(spread) / len(spread) < 30
    assert arrange(lengths, 8, 2, seed=1) == order


@pytest.mark.parametrize(
    "change", [{"rank": 0}, {"kl_weight": -1}, {"batch_size": 10, "micro_batches": 4}, {"save_dtype": "int8"}]
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=r"range|multiples"):
        TrainConfig(**change)
