"""Checkpoints in names that their library has left behind."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from ml_dtypes import bfloat16

from initaudit import audit, layers
from initaudit.live import opened
from initaudit.types import Model, Tensor

if find_spec("transformers") is None:
    pytest.skip("transformers is not installed", allow_module_level=True)
pytest.importorskip("transformers.conversion_mapping", reason="transformers renames nothing before its fifth version")

WIDTH, INNER, EXPERTS = 16, 24, 3


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> Model:
    folder = tmp_path_factory.mktemp("mixtral")
    config = {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": WIDTH, "vocab_size": 40,
        "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "num_local_experts": EXPERTS,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return opened.built(None, f"hf:{folder}", weights=False)


def checkpoint(dtype=np.float32, experts: int = EXPERTS, **changed) -> Model:
    """Return a checkpoint as everybody has it: an expert's matrices each for itself."""
    draw = np.random.default_rng(0)
    shapes = {
        "model.embed_tokens.weight": (40, WIDTH), "model.norm.weight": (WIDTH,), "lm_head.weight": (40, WIDTH),
        "model.layers.0.input_layernorm.weight": (WIDTH,),
        "model.layers.0.post_attention_layernorm.weight": (WIDTH,),
        "model.layers.0.block_sparse_moe.gate.weight": (EXPERTS, WIDTH),
        **{f"model.layers.0.self_attn.{x}_proj.weight": (WIDTH, WIDTH) for x in "qkvo"},
    }  # fmt: skip
    for k in range(experts):
        at = f"model.layers.0.block_sparse_moe.experts.{k}"
        shapes |= {f"{at}.w1.weight": (INNER, WIDTH), f"{at}.w2.weight": (WIDTH, INNER)}
        shapes |= {f"{at}.w3.weight": (INNER, WIDTH)}
    name = "bfloat16" if dtype is bfloat16 else "float32"
    arrays = {key: draw.normal(0, 0.02, shape).astype(dtype) for key, shape in shapes.items()} | changed
    tensors = (Tensor(key, a.shape, name, lambda a=a: a) for key, a in sorted(arrays.items(), reverse=True))
    return Model("x", "torch", "", tuple(tensors))


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_experts_are_joined_in_their_order(module, dtype):
    file = checkpoint(dtype)
    found = opened.fitted(file, module)
    assert found.mismatches == ()
    own = {layer.name: layer for layer in layers.infer(found)[0]}
    down = own["model.layers.0.mlp.experts.down_proj"]
    held = {t.name: t.load() for t in file.tensors}
    first = held["model.layers.0.block_sparse_moe.experts.0.w2.weight"]
    values = np.asarray(down.weight.load(), np.float32)
    assert values.shape == (EXPERTS, INNER, WIDTH)  # as the layer reads it: (experts, in, out)
    assert np.array_equal(values[0].T, np.asarray(first, np.float32))
    assert "model.layers.0.block_sparse_moe.gate" in own  # what has one name only keeps that of the file
    report = audit.audit_model(found)
    assert report.coverage == 1.0
    assert not [f for f in report.findings if f.rule == "INI401"]


def test_a_fault_in_a_part_is_found_in_the_whole(module):
    spoilt = np.full((WIDTH, INNER), np.nan, np.float32)
    file = checkpoint(**{"model.layers.0.block_sparse_moe.experts.1.w2.weight": spoilt})
    report = audit.audit_model(opened.fitted(file, module))
    assert [(f.rule, f.layer) for f in report.findings if f.severity > 1] == [
        ("INI101", "model.layers.0.mlp.experts.down_proj")
    ]


def test_an_expert_too_few_is_another_shape(module):
    found = opened.fitted(checkpoint(experts=EXPERTS - 1), module)
    assert {(one.what, one.name.rpartition(".")[2]) for one in found.mismatches} == {
        ("shape", "gate_up_proj"),
        ("shape", "down_proj"),
    }


def test_what_has_no_place_is_not_given_one_by_a_likeness_of_shapes(module):
    stray = {"stray.dense.weight": np.zeros((40, WIDTH), np.float32)}
    file = checkpoint(**stray)
    file = Model("x", "torch", "", tuple(t for t in file.tensors if t.name != "lm_head.weight"))
    found = opened.fitted(file, module)
    assert {(one.what, one.name) for one in found.mismatches} == {
        ("unexpected", "stray.dense.weight"),
        ("missing", "lm_head.weight"),
    }
