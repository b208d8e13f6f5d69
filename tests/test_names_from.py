from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from initaudit.errors import ReadError
from initaudit.names_from import arrangement, renamed
from initaudit.types import Array, Layer, Model, Tensor

AXES = {0: "", 1: "o", 2: "oi", 3: "soi", 4: "oikk"}


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(name: str, values: Array, dtype: str = "float32", **more: Any) -> Tensor:
    return Tensor(name, values.shape, dtype, lambda: values, **more)


def layer(name: str, values: Array, **more: Any) -> Layer:
    return Layer(name, "linear", tensor(name, values), AXES[values.ndim], **more)


def checkpoint(**values: Array) -> Model:
    held = tuple(tensor(name.replace("__", "."), array) for name, array in values.items())
    return Model("own.pt", "torch", "", held)


def names(layers: list[Layer], model: Model) -> list[str]:
    return [one.name for one in renamed(layers, model)]


def test_equal_and_transposed_twins() -> None:
    a, b, c = random(6, 4), random(6, 4, seed=1), random(3, 2, 5, 5, seed=2)
    model = checkpoint(enc__0__weight=a, enc__1__weight=b, conv__weight=c)
    new = renamed([layer("val_1", b.T), layer("val_2", a), layer("val_3", c.transpose(1, 0, 2, 3))], model)
    assert [one.name for one in new] == ["enc.1", "enc.0", "conv"]
    assert [one.weight.name for one in new] == ["val_1", "val_2", "val_3"]
    assert new[0].reasons[-1] == "named after own.pt, which holds the same values, transposed"
    assert new[1].reasons[-1].endswith("the same values")


def test_what_differs_in_one_bit_keeps_its_name() -> None:
    a = random(6, 4)
    b = a.copy()
    b[3, 2] = np.nextafter(b[3, 2], np.float32(9))
    assert names([layer("val_1", b)], checkpoint(fc__weight=a)) == ["val_1"]


def test_the_same_values_in_any_other_order_are_no_twin() -> None:
    a = random(6, 5)
    mixed = np.random.default_rng(1).permutation(a.reshape(-1)).reshape(6, 5)
    assert names([layer("val_1", mixed)], checkpoint(fc__weight=a)) == ["val_1"]


@pytest.mark.parametrize(("count", "order"), [(4, (0, 3, 1, 2)), (3, (1, 0, 2))], ids=["lstm", "gru"])
def test_gates_in_another_order(count: int, order: tuple[int, ...]) -> None:
    a = random(count * 6, 5)
    blocks = np.split(a, count)
    moved = np.concatenate([blocks[k] for k in order])[None]
    (one,) = renamed([layer("onnx::LSTM_5", moved)], checkpoint(rnn__weight_ih_l0=a))
    assert one.name == "rnn.weight_ih_l0"
    assert "gates in another order" in one.reasons[-1]
    (one,) = renamed([layer("kernel", moved[0].T)], checkpoint(rnn__weight_ih_l0=a))
    assert one.name == "rnn.weight_ih_l0"
    assert "transposed" in one.reasons[-1]


def test_tensors_side_by_side() -> None:
    q, k, v = random(8, 8), random(4, 8, seed=1), random(4, 8, seed=2)
    model = checkpoint(attn__q__weight=q, attn__k__weight=k, attn__v__weight=v, other__weight=random(9, 8, seed=3))
    fused = np.concatenate([q, k, v])
    assert names([layer("val_1", fused)], model) == ["attn.q+k+v"]
    assert names([layer("val_1", fused.T.copy())], model) == ["attn.q+k+v"]
    assert names([layer("val_1", np.concatenate([q, k, v + 1]))], model) == ["val_1"]


def test_both_directions_in_one_tensor() -> None:
    one, two = random(8, 5), random(8, 5, seed=1)
    model = checkpoint(rnn__weight_ih_l0=one, rnn__weight_ih_l0_reverse=two)
    assert names([layer("onnx::GRU_1", np.stack([one, two]))], model) == ["rnn.weight_ih_l0+weight_ih_l0_reverse"]


def test_one_part_of_a_fused_tensor() -> None:
    fused = random(12, 6)
    parts = np.split(fused, 3)
    new = renamed([layer(f"val_{n}", part.T) for n, part in enumerate(parts)], checkpoint(attn__qkv__weight=fused))
    assert [one.name for one in new] == ["attn.qkv.0", "attn.qkv.1", "attn.qkv.2"]
    assert "part 2 of 3, transposed" in new[1].reasons[-1]


@pytest.mark.parametrize("values", [np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32)], ids=["zeros", "ones"])
def test_constants_name_nothing(values: Array) -> None:
    assert names([layer("val_1", values)], checkpoint(fc__weight=values)) == ["val_1"]


def test_copies_name_nothing_but_ties_do() -> None:
    a = random(5, 4)
    assert names([layer("val_1", a)], checkpoint(x__weight=a, y__weight=a.copy())) == ["val_1"]
    assert names([layer("val_1", a.T)], checkpoint(x__weight=a, y__weight=a.T.copy())) == ["val_1"]
    tied = tuple(tensor(name, a, storage="one") for name in ("emb.weight", "head.weight"))
    assert names([layer("val_1", a.T)], Model("own.pt", "torch", "", tied)) == ["emb"]


def test_a_norm_is_known_by_its_statistics() -> None:
    ones, mean = np.ones(6, np.float32), random(6)
    scale = layer("val_1", ones, extra=(tensor("val_2", mean),))
    model = checkpoint(bn__weight=ones, bn__running_mean=mean, fc__weight=random(3, 6), fc__bias=random(3, seed=1))
    assert names([scale], model) == ["bn"]
    folded = layer("val_1", random(3, 6, seed=5), bias=tensor("val_2", random(3, seed=1)))
    assert names([folded], model) == ["fc"]
    other = layer("val_1", random(3, 7, seed=5), bias=tensor("val_2", random(3, seed=1)))
    assert names([other], model) == ["val_1"]


def test_names_stay_unique_and_ties_follow() -> None:
    a, b = random(5, 4), random(5, 4, seed=1)
    layers = [layer("val_1", a), layer("fc", b), layer("val_3", a.T, tied="val_1")]
    new = renamed(layers, checkpoint(fc__weight=a))
    assert [one.name for one in new] == ["fc_1", "fc", "fc_2"]
    assert new[2].tied == "fc_1"


def test_element_types_that_hold_the_same_numbers() -> None:
    a = random(5, 4).astype(np.float16)
    wide = layer("val_1", a.astype(np.float32))
    assert names([wide], Model("own.pt", "torch", "", (tensor("fc.weight", a, "float16"),))) == ["fc"]


def test_what_cannot_be_read_names_nothing() -> None:
    def fail() -> Array:
        raise ReadError("gone")

    a = random(3, 3)
    broken = Tensor("fc.weight", (3, 3), "float32", fail)
    assert names([layer("val_1", a)], Model("own.pt", "torch", "", (broken,))) == ["val_1"]
    lost = Layer("val_1", "linear", Tensor("val_1", (3, 3), "float32", fail), "oi")
    assert names([lost], checkpoint(fc__weight=a)) == ["val_1"]


def test_every_tensor_is_let_go() -> None:
    let_go: list[str] = []

    def held(name: str, values: Array) -> Tensor:
        return Tensor(name, values.shape, "float32", lambda: values, release=lambda: let_go.append(name))

    a = random(700, 800)
    one = Layer("val_1", "linear", held("val_1", a.T), "io")
    (new,) = renamed([one], Model("own.pt", "torch", "", (held("fc.weight", a), held("rest.weight", a + 1))))
    assert new.name == "fc"
    assert {"val_1", "fc.weight", "rest.weight"} <= set(let_go)


def test_arrangement() -> None:
    a = random(4, 3, 2)
    assert arrangement(a, a) == ""
    assert arrangement(a, a.transpose(2, 0, 1)) == "transposed"
    assert arrangement(a, a.reshape(12, 2)) == "in another shape"
    assert arrangement(a[None], a) == ""
    assert arrangement(random(5, 4), random(5, 4)[::-1]) is None
    assert arrangement(np.array([0.0, 1.0]), np.array([-0.0, 1.0])) == ""


def test_a_file_and_its_checkpoint(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from initaudit import formats, layers

    net = torch.nn.Sequential(
        torch.nn.Linear(6, 8, bias=False), torch.nn.ReLU(), torch.nn.LSTM(8, 5, bidirectional=True)
    )
    torch.save(net.state_dict(), tmp_path / "own.pt")
    torch.onnx.export(net.eval(), (torch.randn(4, 2, 6),), str(tmp_path / "net.onnx"), dynamo=False)
    found, _ = layers.infer(formats.read(tmp_path / "net.onnx"))
    new = renamed(found, formats.read(tmp_path / "own.pt"))
    recurrent = {f"2.weight_{which}_l0{end}" for which in ("ih", "hh") for end in ("", "_reverse")}
    assert {a.name for a in new} == {"0", *recurrent}
    assert all("the same values" in a.reasons[-1] for a in new)


def test_the_option(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from typer.testing import CliRunner

    import initaudit
    from initaudit.cli import app

    net = torch.nn.Sequential(torch.nn.Linear(6, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 5, bias=False))
    torch.save({f"body.{name}": value for name, value in net.state_dict().items()}, tmp_path / "own.pt")
    torch.save({"fc.weight": torch.randn(6, 8)}, tmp_path / "other.pt")
    torch.onnx.export(net.eval(), (torch.randn(4, 2, 6),), str(tmp_path / "net.onnx"), dynamo=False)
    report = initaudit.check(tmp_path / "net.onnx", names=tmp_path / "own.pt")
    assert [m.layer.name for m in report.measured] == ["body.0", "body.2"]
    for command in ("check", "show"):
        out = CliRunner().invoke(app, [command, str(tmp_path / "net.onnx"), "--names", str(tmp_path / "own.pt")])
        assert out.exit_code == 0
        assert "body.0" in out.output
    report = initaudit.check(tmp_path / "net.onnx", names=tmp_path / "other.pt")
    assert ("other.pt", "no weight has the same values there: no name is taken from it") in {
        (skip.name, skip.why) for skip in report.skipped
    }
    out = CliRunner().invoke(app, ["check", str(tmp_path / "net.onnx"), "--names", str(tmp_path / "gone.pt")])
    assert out.exit_code != 0
