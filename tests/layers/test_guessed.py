"""What names and numbering make likely where no family is known: never more than assumed."""

from __future__ import annotations

import pytest

from initaudit import layers
from initaudit.types import Evidence, Layer
from tests.layers.flat import by_weight, model, tensor

NAMED, ASSUMED = Evidence.NAMED, Evidence.ASSUMED


def read(shapes: dict[str, tuple[int, ...]], config: dict | None = None) -> dict[str, Layer]:
    return by_weight(layers.infer(model(*(tensor(n, *s) for n, s in shapes.items()), config=config))[0])


def norm(path: str, n: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}.{p}": (n,) for p in ("weight", "bias", "running_mean", "running_var")}


def acts(shapes: dict[str, tuple[int, ...]], config: dict | None = None) -> dict[str, str | None]:
    found = read(shapes, config)
    assert all(a.activation_evidence is ASSUMED for a in found.values() if a.activation is not None)
    return {n.removesuffix(".weight"): a.activation for n, a in found.items() if a.kind not in ("norm", "prelu")}


def test_a_gap_in_the_numbers_is_something_without_parameters() -> None:
    gaps = {"net.0.weight": (16, 8), "net.2.weight": (16, 16), "net.5.weight": (4, 16)}
    assert acts(gaps) == {"net.0": "relu", "net.2": "relu", "net.5": None}


def test_nothing_stands_between_two_neighbours_of_a_numbered_row_with_gaps() -> None:
    row = {"net.0.weight": (16, 8), "net.1.weight": (16, 16), "net.3.weight": (4, 16)}
    assert acts(row) == {"net.0": None, "net.1": "relu", "net.3": None}


def test_slopes_in_the_file_name_their_activation() -> None:
    found = read({"net.0.weight": (16, 8), "net.1.weight": (1,), "net.2.weight": (4, 16)})
    assert (found["net.0.weight"].activation, found["net.0.weight"].activation_evidence) == ("prelu", NAMED)


def test_batch_norm_is_mostly_followed_by_relu() -> None:
    net = {
        "a.conv1.weight": (8, 3, 3, 3), **norm("a.bn1", 8), "a.conv2.weight": (16, 8, 3, 3), **norm("a.bn2", 16),
        "out.weight": (5, 16),
    }  # fmt: skip
    assert acts(net) == {"a.conv1": "relu", "a.conv2": "relu", "out": None}


def inverted(shortcut: bool) -> dict[str, tuple[int, ...]]:
    block = {
        "b.0.expand.weight": (48, 8, 1, 1), **norm("b.0.bn_a", 48), "b.0.dw.weight": (48, 1, 3, 3),
        **norm("b.0.bn_b", 48),
        "b.0.project.weight": (16, 48, 1, 1), **norm("b.0.bn_c", 16),
    }  # fmt: skip
    return block | ({"b.0.shortcut.weight": (16, 8, 1, 1)} if shortcut else {})


def test_the_way_down_from_a_depthwise_convolution_is_linear() -> None:
    found = acts(inverted(shortcut=False))
    assert found["b.0.project"] is None
    assert found["b.0.expand"] is not None


def test_context_expand_and_back_as_in_convnext() -> None:
    block = {
        "b.0.dw.weight": (16, 1, 7, 7), "b.0.dw.bias": (16,), "b.0.n.weight": (16,), "b.0.n.bias": (16,),
        "b.0.up1.weight": (64, 16), "b.0.up1.bias": (64,), "b.0.back.weight": (16, 64), "b.0.back.bias": (16,),
    }  # fmt: skip
    assert acts(block) == {"b.0.dw": None, "b.0.up1": "gelu", "b.0.back": None}


def test_the_two_layers_of_a_squeeze_excite() -> None:
    assert acts({"b.se.fc1.weight": (4, 16, 1, 1), "b.se.fc2.weight": (16, 4, 1, 1)}) == {
        "b.se.fc1": "relu", "b.se.fc2": "sigmoid",
    }  # fmt: skip


def transformer(first: str, second: str) -> dict[str, tuple[int, ...]]:
    return {
        "h.0.attn.q_proj.weight": (8, 8), "h.0.attn.o_proj.weight": (8, 8),
        f"h.0.{first}.weight": (32, 8), f"h.0.{second}.weight": (8, 32),
    }  # fmt: skip


@pytest.mark.parametrize(("first", "second"), [("ffn.a", "ffn.b"), ("mlp.lin_in", "mlp.lin_out"), ("ff.0", "ff.3")])
def test_the_wide_matrix_of_a_feed_forward_block(first: str, second: str) -> None:
    found = acts(transformer(first, second))
    assert found[f"h.0.{first}"] == "gelu"
    assert [found[k] for k in ("h.0.attn.q_proj", "h.0.attn.o_proj", f"h.0.{second}")] == [None, None, None]


def test_a_dot_product_after_queries_is_told_by_name() -> None:
    a = read(transformer("ffn.a", "ffn.b"))["h.0.attn.q_proj.weight"]
    assert (a.activation, a.activation_evidence) == (None, NAMED)


def test_a_generator_ends_in_a_picture() -> None:
    net = {
        "main.0.weight": (64, 32, 4, 4), **norm("main.1", 32), "main.3.weight": (32, 16, 4, 4), **norm("main.4", 16),
        "main.6.weight": (16, 3, 4, 4),
    }  # fmt: skip
    assert acts(net) == {"main.0": "relu", "main.3": "relu", "main.6": "tanh"}


def test_the_configuration_says_what_convolutions_use() -> None:
    net = {
        "x.0.conv1.weight": (8, 3, 3, 3),
        **norm("x.0.bn1", 8),
        "x.0.conv2.weight": (8, 8, 3, 3),
        **norm("x.0.bn2", 8),
    }
    assert set(acts(net, {"model_type": "own", "hidden_act": "silu"}).values()) == {"silu"}


def test_the_users_word_counts_more_than_a_likelihood() -> None:
    gaps = (tensor("net.0.weight", 16, 8), tensor("net.2.weight", 16, 16), tensor("net.4.weight", 4, 16))
    found = by_weight(layers.infer(model(*gaps), "tanh")[0])
    assert [(a.activation, a.activation_evidence) for a in found.values()][:2] == [("tanh", NAMED)] * 2


def test_two_matrices_on_their_own_say_nothing() -> None:
    assert acts({"left.weight": (16, 8), "right.weight": (16, 8)}) == {"left": None, "right": None}
