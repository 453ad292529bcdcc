"""Models from elsewhere: read as what their config says they are, or refused by name."""

from __future__ import annotations

import json
import re

import pytest
import torch
from foreign_models import (
    F64,
    FLA,
    LLAMA,
    TOKENS,
    TORCHSCALE,
    Weights,
    fla_weights,
    gpt2_weights,
    llama_weights,
    torchscale_weights,
    write,
)

from retnet_bench.base import UserError
from retnet_bench.models import foreign

SAYS_LLAMA = LLAMA | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
GPT2 = {"model_type": "gpt2", "n_head": 2, "activation_function": "gelu_new"}
HF = {  # what transformers 4 and 5 write beside what a model computes
    "transformers_version": "5.0.0",
    "dtype": "float32",
    "use_cache": True,
    "initializer_range": 0.02,
    "attention_dropout": 0.1,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pretraining_tp": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    "head_dim": 4,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "vocab_size": 37,
    "attention_bias": False,
    "mlp_bias": False,
    "quantization_config": None,
}


def llama() -> Weights:
    return llama_weights(4, False, 4, 4)


def refusal(folder, weights: Weights, config: dict) -> str:
    with pytest.raises(UserError) as caught:
        foreign.load_any(write(folder, weights, config))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


# --- what it is --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model_type",
    ["granite", "gemma", "gemma2", "qwen3", "olmo2", "smollm3", "helium", "ernie4_5", "Llama", 7],
)
def test_another_architecture_with_llama_s_tensors_is_refused(tmp_path, model_type):
    said = refusal(tmp_path, llama(), LLAMA | {"model_type": model_type})
    assert f"config.json: model_type {model_type} is not supported" in said
    assert "llama, mistral, qwen2" in said


def test_fla_s_transformer_is_no_retnet_without_gate(tmp_path):
    config = FLA | {"model_type": "transformer"}
    said = refusal(tmp_path, fla_weights(2, False, False), config)
    assert "model_type transformer is not supported" in said


def test_gpt_bigcode_is_no_gpt2(tmp_path):
    config = GPT2 | {"model_type": "gpt_bigcode", "multi_query": False}
    assert "gpt_bigcode is not supported" in refusal(tmp_path, gpt2_weights(False, True), config)


@pytest.mark.parametrize("stated", [["GraniteForCausalLM"], "LlamaForCausalLM", {"a": 1}, [3]])
@pytest.mark.parametrize("model_type", [{}, {"model_type": "llama"}])
def test_architectures_must_agree(tmp_path, stated, model_type):
    said = refusal(tmp_path, llama(), LLAMA | model_type | {"architectures": stated})
    assert "architectures" in said
    assert "is not supported" in said


def test_a_model_type_without_its_tensors_is_refused(tmp_path):
    said = refusal(tmp_path, llama(), LLAMA | {"model_type": "gpt2"})
    assert 'model_type is "gpt2", but tensor "h.0.attn.c_attn.weight" is missing' in said


def test_a_config_that_does_not_say_is_refused_since_others_have_the_same_names(tmp_path):
    """A Gemma without model_type would be scored as a LLaMA."""
    unsaid = {name: value for name, value in LLAMA.items() if name != "model_type"}
    said = refusal(tmp_path, llama(), unsaid)
    assert 'config.json: field "model_type" is missing: ' in said
    assert "are those of llama, but other architectures have them, too" in said


def test_the_window_of_a_mistral_counts_whatever_else_is_said(tmp_path):
    """transformers' Mistral does not read use_sliding_window."""
    window = {"model_type": "mistral", "sliding_window": 4, "use_sliding_window": False}
    said = refusal(tmp_path, llama(), LLAMA | window)
    assert "sliding_window is 4; it should be null" in said


def test_projects_that_write_no_model_type_need_none(tmp_path, recwarn):
    foreign.load_any(write(tmp_path / "a", torchscale_weights(False), TORCHSCALE))
    nanogpt = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "bias": False}
    config = nanogpt | {"dropout": 0.1, "activation_function": "gelu"}
    _, meta = foreign.load_any(write(tmp_path / "b", gpt2_weights(False, False), config))
    assert meta == {"layout": "gpt2", "length": 32}
    assert not recwarn.list
    said = refusal(tmp_path / "c", gpt2_weights(False, False), nanogpt)
    assert 'field "activation_function" is missing; nanoGPT computes "gelu"' in said


def test_a_folder_without_config_is_refused(tmp_path):
    (write(tmp_path, llama(), LLAMA) / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json does not exist; it says what the weights"):
        foreign.load_any(tmp_path)


# --- its settings ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_multiplier": 12.0}, 'field "embedding_multiplier" is unknown: its value, 12'),
        ({"logits_scaling": 1}, 'field "logits_scaling" is unknown: its value, 1'),
        ({"final_logit_softcapping": 30.0}, 'field "final_logit_softcapping" is unknown'),
        ({"quantization_config": {"bits": 4}}, 'field "quantization_config" is unknown'),
        ({"num_key_value_head": 2}, 'is unknown.*did you mean "num_key_value_heads"'),
        ({"rope_parameters": {"type": "linear", "factor": 2.0}}, 'parameters.type is "linear"'),
        ({"rope_parameters": {"rope_type": "yarn"}}, 'rope_parameters.rope_type is "yarn"'),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 'rope_scaling.type is "dynamic"'),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling.factor is 2.0"),
        ({"rope_parameters": {"attention_factor": 0.5}}, 'rope_parameters field "attention_factor'),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor is 0.25"),
        ({"rope_interleaved": True}, "rope_interleaved is true; it should be false"),
        ({"head_dim": 8}, "head_dim is 8, but its tensors have 4"),
        ({"num_hidden_layers": 1}, "num_hidden_layers is 1, but its tensors have 2"),
        ({"hidden_size": 32}, "hidden_size is 32, but its tensors have 16"),
        ({"intermediate_size": 8}, "intermediate_size is 8, but its tensors have 24"),
        ({"vocab_size": 64}, "vocab_size is 64, but its tensors have 37"),
        ({"num_key_value_heads": 2}, "16 rows, not 8"),
        ({"attention_bias": True}, r'q_proj\.bias" is missing in a llama'),
        ({"mlp_bias": True}, r'gate_proj\.bias" is missing in a llama'),
        ({"tie_word_embeddings": True}, r'"lm_head\.weight" is not the embedding'),
        ({"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types\.1 is"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder is true"),
        ({"num_attention_heads": "4"}, 'num_attention_heads is "4"; it should be a valid integer'),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; it should be greater"),
        ({"num_attention_heads": 4.0}, r"num_attention_heads is 4\.0"),
        ({"num_attention_heads": 10**12}, "num_attention_heads is 10{12}"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is NaN"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps is -1e-05"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"eos_token_id": "</s>"}, 'eos_token_id is "</s>"'),
        ({"hidden_act": ["silu"]}, "hidden_act is"),
        ({"architectures": ["LlamaForCausalLM"] * 2 + [5]}, "architectures"),
    ],
)
def test_a_setting_of_llama_that_changes_the_answers_is_refused(tmp_path, changes, message):
    said = refusal(tmp_path, llama(), SAYS_LLAMA | changes)
    assert re.search(message, said), said
    assert "config.json" in said or "rows" in said or "lm_head" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, '"sliding_window" is missing, which for mistral means 4096'),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding_window is 4096"),
        ({"model_type": "qwen2"}, r'q_proj.bias" is missing in a qwen2'),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window is true"),
    ],
)
def test_defaults_are_those_of_the_architecture(tmp_path, changes, message):
    assert message in refusal(tmp_path, llama(), LLAMA | changes)


def test_architectures_alone_say_whose_defaults(tmp_path):
    mistral = {"model_type": None, "architectures": ["MistralForCausalLM"]}
    said = refusal(tmp_path, llama(), LLAMA | mistral)
    assert "for mistral means 4096" in said


def test_biases_that_the_architecture_would_not_add_are_refused(tmp_path):
    said = refusal(tmp_path, llama_weights(4, True, 4, 4), SAYS_LLAMA)
    assert 'q_proj.bias" has no place in a llama' in said


def test_a_bias_that_one_layer_lacks_is_not_taken_for_zero(tmp_path):
    weights = llama_weights(4, True, 4, 4)
    del weights["model.layers.1.self_attn.v_proj.bias"]
    said = refusal(tmp_path, weights, LLAMA)
    assert 'tensor "self_attn.v_proj.bias" stands in 1 of 2 layers' in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multi_query": False}, 'field "multi_query" is unknown'),
        ({"n_layer": 3}, "n_layer is 3, but its tensors have 2"),
        ({"n_positions": 64}, "n_positions is 64, but its tensors have 32"),
        ({"n_inner": 64}, "n_inner is 64, but its tensors have 24"),
        ({"bias": False}, "bias is false, but its tensors have true"),
        ({"scale_attn_weights": False}, "scale_attn_weights is false; it should be true"),
        ({"add_cross_attention": True}, "add_cross_attention is true"),
        ({"activation_function": "quick_gelu"}, 'activation_function is "quick_gelu"'),
    ],
)
def test_a_setting_of_gpt2_that_changes_the_answers_is_refused(tmp_path, changes, message):
    assert message in refusal(tmp_path, gpt2_weights(True, True), GPT2 | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qkv_bias": False}, 'field "qkv_bias" is unknown'),
        ({"use_short_conv": True}, "use_short_conv is true; it should be false"),
        ({"feature_map": "relu"}, 'feature_map is "relu"'),
        ({"expand_v": 4.0}, "expand_v times the width is 64, but its tensors have 32"),
        ({"use_output_gate": False}, "use_output_gate is false, but its tensors have true"),
        ({"elementwise_affine": False}, "g_norm_swish_gate"),
        ({"num_hidden_layers": 24}, "num_hidden_layers is 24, but its tensors have 2"),
    ],
)
def test_a_setting_of_fla_that_changes_the_answers_is_refused(tmp_path, changes, message):
    assert message in refusal(tmp_path, fla_weights(2, True, False), FLA | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layernorm_embedding": True}, "layernorm_embedding is true"),
        ({"moe_freq": 2}, "moe_freq is 2; it should be 0"),
        ({"use_lm_decay": True}, 'field "use_lm_decay" is unknown'),
        ({"decoder_layers": 12}, "decoder_layers is 12, but its tensors have 2"),
        ({"share_decoder_input_output_embed": True}, "is not the embedding"),
        ({"decoder_retention_heads": 10**9}, "do not divide into 1000000000 heads"),
    ],
)
def test_a_setting_of_torchscale_that_changes_the_answers_is_refused(tmp_path, changes, message):
    assert message in refusal(tmp_path, torchscale_weights(False), TORCHSCALE | changes)


@pytest.mark.parametrize(
    "changes",
    [
        HF,
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_scaling": {"type": "default", "factor": 1.0}},
        {"id2label": {"0": "LABEL_0"}, "task_specific_params": None, "use_bfloat16": False},
        {"some_setting_of_the_future": None},
    ],
)
def test_settings_that_change_nothing_are_read_past(tmp_path, changes):
    plain, _ = foreign.load_any(write(tmp_path / "a", llama(), SAYS_LLAMA))
    model, meta = foreign.load_any(write(tmp_path / "b", llama(), SAYS_LLAMA | changes))
    assert torch.equal(model(TOKENS), plain(TOKENS))
    ends = {name: changes[name] for name in ("bos_token_id", "eos_token_id") if name in changes}
    assert meta == {"layout": "llama"} | ends


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace("model.", "model._orig_mod."),
        lambda name: name.replace("model.layers", "model._fsdp_wrapped_module.layers"),
    ],
)
def test_what_torch_wraps_a_model_in_is_no_part_of_its_names(tmp_path, rename):
    plain, _ = foreign.load_any(write(tmp_path / "a", llama(), SAYS_LLAMA))
    wrapped = {rename(name): value for name, value in llama().items()}
    model, _ = foreign.load_any(write(tmp_path / "b", wrapped, SAYS_LLAMA))
    assert torch.equal(model(TOKENS), plain(TOKENS))


def test_two_tensors_of_one_name_but_for_the_wrapping_are_refused(tmp_path):
    weights = llama() | {"_orig_mod.model.norm.weight": torch.ones(16, dtype=F64)}
    assert "equal but for a prefix" in refusal(tmp_path, weights, SAYS_LLAMA)


def test_a_huge_or_deep_config_is_one_line(tmp_path):
    path = write(tmp_path, llama(), LLAMA) / "config.json"
    for text in ('{"a":' * 100_000, '{"num_attention_heads": 1' + "0" * 5000 + "}", "[]", ""):
        path.write_text(text)
        with pytest.raises(UserError, match=r"config\.json") as caught:
            foreign.load_any(tmp_path)
        assert len(str(caught.value)) < 400
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(UserError, match="is larger than 1 MiB"):
        foreign.load_any(tmp_path)
    path.write_bytes(b'{"num_attention_heads": "\xff"}')
    with pytest.raises(UserError, match="can't be read"):
        foreign.load_any(tmp_path)


# --- transformers itself, where it is installed -------------------------------------------------

SIZES = {
    "vocab_size": 37,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT_SIZES = {"vocab_size": 37, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


@pytest.mark.parametrize(
    ("stem", "settings", "supported"),
    [
        ("Llama", SIZES | {"attention_bias": True}, True),
        ("Llama", SIZES | {"head_dim": 16, "tie_word_embeddings": True}, True),
        ("Mistral", SIZES | {"sliding_window": None}, True),
        ("Qwen2", SIZES, True),
        ("GPT2", GPT_SIZES, True),
        ("GPT2", GPT_SIZES | {"activation_function": "gelu", "tie_word_embeddings": False}, True),
        ("Granite", SIZES | {"embedding_multiplier": 12.0, "logits_scaling": 8.0}, False),
        ("Gemma", SIZES | {"head_dim": 8}, False),
        ("Phi", SIZES, False),
        ("GPTNeoX", SIZES, False),
        ("GPTBigCode", GPT_SIZES | {"multi_query": False}, False),
    ],
)
def test_transformers_own_logits_or_refused(tmp_path, stem, settings, supported):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{stem}Config")(**settings)
    suffix = "LMHeadModel" if stem == "GPT2" else "ForCausalLM"
    torch.manual_seed(0)
    theirs = getattr(transformers, stem + suffix)(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        expected = theirs(TOKENS).logits
    theirs.save_pretrained(tmp_path)
    if not supported:
        assert json.loads((tmp_path / "config.json").read_text())["model_type"]
        with pytest.raises(UserError, match=r"config\.json: model_type \w+ is not supported"):
            foreign.load_any(tmp_path)
        return
    model, _ = foreign.load_any(tmp_path)
    with torch.no_grad():
        assert ((model(TOKENS) - expected).abs().max() / expected.abs().max()).item() < 1e-5
