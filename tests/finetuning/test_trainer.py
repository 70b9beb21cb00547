"""A tiny model trains for a few steps: loss, KL at step 0, resume, determinism, round trip of the adapter."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from hybridmem_plugins.finetuning.guard import check_head
from hybridmem_plugins.finetuning.guarded_sft import collate, guarded_loss
from hybridmem_plugins.finetuning.rows import EncodedRow, RowEncoder
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
    return load_file(folder / "adapter_model.safetensors")


def _peft(tiny):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(tiny, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))


def _batch(tokenizer, rows, guards):
    return _collated(tokenizer, rows, guards, CONFIG)


def _collated(tokenizer, rows, guards, config, step=0):
    encoder = RowEncoder(tokenizer)
    held = [encoder.encode_guard(guard) for guard in guards[:3]]
    return collate([encoder.encode(row) for row in rows[:4]], held, 0, config, step)


def test_kl_is_zero_before_the_first_step_and_not_after(tiny, tokenizer, rows, guards):
    model, batch = _peft(tiny).train(), _batch(tokenizer, rows, guards)
    loss, answers, kl = guarded_loss(model, batch, CONFIG)
    assert float(kl) == pytest.approx(0.0, abs=1e-7)
    assert float(loss) == pytest.approx(float(answers), abs=1e-6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    loss, answers, kl = guarded_loss(model, batch, CONFIG)
    assert float(kl) > 1e-3
    assert float(loss) == pytest.approx(float(answers + CONFIG.kl_weight * kl), rel=1e-5)


def test_the_answer_loss_is_the_mean_over_rows_of_their_mean_cross_entropy(tiny, tokenizer, rows, guards):
    model, batch = _peft(tiny).eval(), _batch(tokenizer, rows, guards)
    _, answers, _ = guarded_loss(model, batch, CONFIG)
    expected = []
    for row in rows[:4]:
        encoded = RowEncoder(tokenizer).encode(row)
        logits = model(input_ids=torch.tensor([encoded.input_ids])).logits[0, :-1]
        expected.append(torch.nn.functional.cross_entropy(logits, torch.tensor(encoded.labels[1:])))
    assert float(answers) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-4)


def test_only_answers_and_their_ends_are_targets(tiny, tokenizer, rows, guards):
    batch = _batch(tokenizer, rows, guards)
    encoder = RowEncoder(tokenizer)
    expected = [token for row in rows[:4] for token in [*encoder.tokens(row["completion"]), encoder.end]]
    assert batch["answer_to"].tolist() == expected
    flat = batch["input_ids"].flatten()
    assert flat[batch["answer_at"] + 1].tolist() == expected, "each place is the one before its target"
    assert float(batch["answer_weight"].sum()) == pytest.approx(1.0)


def test_guarded_places_are_prompts_and_guard_rows_and_never_answers(tiny, tokenizer, rows, guards):
    batch = _batch(tokenizer, rows, guards)
    assert not set(batch["kl_at"].tolist()) & set(batch["answer_at"].tolist())
    width = batch["input_ids"].shape[1]
    compared = batch["input_ids"][batch["reference"]].flatten()[batch["kl_reference_at"]]
    assert compared.tolist() == batch["input_ids"].flatten()[batch["kl_at"]].tolist(), "the same tokens are compared"
    strung = [token for guard in guards[:3] for token in RowEncoder(tokenizer).encode_guard(guard).input_ids]
    assert batch["input_ids"][4:].flatten()[: len(strung)].tolist() == strung
    assert len(batch["input_ids"]) == 4 + -(-len(strung) // width)
    assert _collated(tokenizer, rows, guards, TrainConfig(kl_weight=0.0))["kl_at"].numel() == 0
    few = TrainConfig(kl_tokens=5)
    assert _collated(tokenizer, rows, guards, few)["kl_at"].numel() == 10
    assert _collated(tokenizer, rows, guards, few, 1)["kl_at"].tolist() != batch["kl_at"].tolist()


def test_padding_changes_no_loss(tiny, tokenizer, rows, guards):
    """Rows are padded on the right without a mask: a longer neighbour must not change a row's loss."""
    model, encoder = _peft(tiny).eval(), RowEncoder(tokenizer)
    row = encoder.encode(rows[0])
    long = EncodedRow([*row.input_ids[:1] * 60, *row.input_ids], [-100] * 60 + row.labels, [0] * 60 + row.guard)
    config = TrainConfig(kl_weight=0.0)
    losses = [
        float(guarded_loss(model, collate(part, [], 0, config, 0), config)[0]) for part in ([row], [long], [row, long])
    ]
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-5)


def test_training_lowers_the_loss_and_the_guard_keeps_the_base(tiny, tokenizer, rows, guards, tmp_path):
    strong = TrainConfig(**{**_fields(CONFIG), "kl_weight": 5.0})
    _, guarded = _train(tiny, tokenizer, rows, guards, tmp_path / "guarded", config=strong)
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


def test_a_folder_with_another_run_is_not_gone_on_with(tiny, tokenizer, rows, guards, tmp_path):
    config = replace(CONFIG, save_steps=3, epochs=1)
    _, first = _train(tiny, tokenizer, rows, guards, tmp_path / "a", config=config)
    before = _weights(tmp_path / "a")
    others = [{**row, "completion": "ada"} for row in rows]
    for changed, options in ((others, {}), (rows, {"config": replace(config, seed=9)}), (rows, {"max_steps": 3})):
        with pytest.raises(ValueError, match="of a run with other rows"):
            _train(tiny, tokenizer, changed, guards, tmp_path / "a", **{"config": config, **options})
    assert all(torch.equal(before[key], one) for key, one in _weights(tmp_path / "a").items())
    _, again = _train(tiny, tokenizer, others, guards, tmp_path / "a", config=config, resume=False)
    assert again.steps == first.steps
    assert any(not torch.equal(before[key], one) for key, one in _weights(tmp_path / "a").items())


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
    with pytest.raises(ValueError, match="base has no dial"):
        local.set_adapter_scale("base", 0.5)
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


@pytest.mark.parametrize("damage", ["answering.json", "a layer too many", "torn"])
@pytest.mark.parametrize("others", [0, 1])
def test_an_adapter_that_fails_to_load_leaves_nothing(tiny, tokenizer, rows, guards, tmp_path, damage, others):
    good, bad = tmp_path / "good", tmp_path / "bad"
    _train(tiny, tokenizer, rows, guards, good, config=replace(CONFIG, learning_rate=5e-2))
    shutil.copytree(good, bad)
    weights = bad / "adapter_model.safetensors"
    if damage == "answering.json":
        (bad / "answering.json").write_text("{broken")
    elif damage == "torn":
        weights.write_bytes(weights.read_bytes()[:900])
    else:
        held = load_file(weights)
        more = {key.replace("layers.0.", "layers.7."): one.clone() for key, one in held.items()}
        save_file({**held, **more}, weights)
    local, chat = LocalModel.from_objects(copy.deepcopy(tiny), tokenizer), rows[0]["messages"][:-1]
    plain = local.chat(chat, max_new_tokens=8).text
    for number in range(others):
        local.load_adapter(f"other{number}", good, scale=0.5)
    with pytest.raises(ValueError, match=r"must hold a JSON object|does not fit"):
        local.load_adapter("x", bad)
    assert local.chat(chat, adapter="base", max_new_tokens=8).text == plain
    local.load_adapter("x", good)
    alone = LocalModel.from_objects(copy.deepcopy(tiny), tokenizer)
    alone.load_adapter("x", good)
    assert local.chat(chat, adapter="x", max_new_tokens=8) == alone.chat(chat, adapter="x", max_new_tokens=8)


@pytest.mark.parametrize(
    ("kind", "setting"), [("Gemma2", {"final_logit_softcapping": 30.0}), ("FalconH1", {"lm_head_multiplier": 0.5})]
)
def test_a_model_that_changes_its_logits_is_refused(tiny, kind, setting):
    check_head(tiny)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 2, "vocab_size": 32}  # fmt: skip
    mamba = {"mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 4}
    config = getattr(transformers, f"{kind}Config")(**sizes, **setting, **(mamba if kind == "FalconH1" else {}))
    with pytest.raises(ValueError, match="changes its logits"):
        check_head(transformers.AutoModelForCausalLM.from_config(config))


def test_a_bad_row_is_named_and_so_are_bad_settings(tiny, tokenizer, tmp_path):
    good = {"prompt": "who wrote it ?", "completion": "ada"}
    trainer = Trainer(copy.deepcopy(tiny), tmp_path, CONFIG, tokenizer=tokenizer)
    for rows, guards, options, message in (
        ([good, good, {"prompt": "who ?"}], [], {}, "Row 2 has no completion"),
        ([good, {"id": "q7", "prompt": "who ?", "completion": " "}], [], {}, "Row 'q7' has no completion"),
        ([good, ["who ?", "ada"]], [], {}, "Training row 1 is no dict"),
        ([good], [{"text": "ada wrote it"}, "ada wrote it"], {}, "Guard row 1 is no dict"),
        ([good], [], {"max_steps": 0}, "max_steps must be 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer.train(rows, guards, progress=False, **options)
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(ValueError, match="tokenizer has no chat template"):
        RowEncoder(bare)
