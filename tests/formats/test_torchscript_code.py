"""The code of TorchScript, hostile or odd, followed without being run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from initaudit import formats
from initaudit.errors import InitauditError
from tests.formats.script_files import changed, nodes, ops, save, why, with_forward

torch: Any = pytest.importorskip("torch")
BOTH = "return (b).forward((a).forward(x, ), )"


def test_plain(tmp_path: Path) -> None:
    assert ops(with_forward(BOTH, tmp_path)) == ["linear", "linear"]


def test_arithmetic_decides(tmp_path: Path) -> None:
    body = """n = torch.add(torch.mul(2, 3), torch.len([1, 2]))
if torch.eq(n, 8):
  y = torch.relu(x)
else:
  y = torch.tanh(x)
return (a).forward(y, )"""
    assert ops(with_forward(body, tmp_path)) == ["relu", "linear"]


def test_unknown_condition_joins_both_sides(tmp_path: Path) -> None:
    body = """if bool(torch.gt(torch.sum(x), 0)):
  y = torch.relu(x)
else:
  y = torch.tanh(x)
return (a).forward(y, )"""
    model = with_forward(body, tmp_path)
    assert ops(model) == ["relu", "tanh", "phi", "linear"]
    (phi,) = nodes(model, "phi")
    assert phi.inputs == (nodes(model, "relu")[0].outputs[0], nodes(model, "tanh")[0].outputs[0])


def test_side_that_raises_is_dropped(tmp_path: Path) -> None:
    body = """if bool(torch.gt(torch.sum(x), 0)):
  ops.prim.RaiseException("no")
  y = x
else:
  y = torch.tanh(x)
return (a).forward(y, )"""
    assert ops(with_forward(body, tmp_path)) == ["tanh", "linear"]


def test_forward_that_raises_is_no_graph(tmp_path: Path) -> None:
    model = with_forward('ops.prim.RaiseException("never")\nreturn x', tmp_path)
    assert model.graph is None and "raises whatever it is given: never" in why(model)
    assert len(model.tensors) == 4


def test_changes_in_a_side_are_undone_and_joined(tmp_path: Path) -> None:
    body = """items = annotate(List[Tensor], [])
if bool(torch.gt(torch.sum(x), 0)):
  _0 = torch.append(items, torch.relu(x))
  y = torch.add_(x, 1)
else:
  _1 = torch.append(items, torch.tanh(x))
z = (a).forward(items[0], )
return torch.add(z, x)"""
    model = with_forward(body, tmp_path)
    assert len(nodes(model, "phi")) == 2  # of the item, and of x, changed in place on one side
    joined = {node.outputs[0] for node in nodes(model, "phi")}
    assert set(nodes(model, "add")[-1].inputs) & joined


def test_loops(tmp_path: Path) -> None:
    body = """y = x
for i in range(3):
  if torch.eq(i, 1):
    y = torch.tanh(y)
  else:
    y = torch.relu(y)
k = 0
_0 = torch.lt(k, 2)
while _0:
  y = torch.sigmoid(y)
  k = torch.add(k, 1)
  _0 = torch.lt(k, 2)
for j in range(torch.size(x, 0)):
  y = (a).forward(y, )
return y"""
    assert ops(with_forward(body, tmp_path)) == ["relu", "tanh", "relu", "sigmoid", "sigmoid", "linear", "phi"]


def test_writing_into_a_view(tmp_path: Path) -> None:
    body = """y = torch.relu(x)
v = torch.slice(torch.select(y, 0, 0), 0, 1, 2)
_0 = torch.copy_(v, torch.tanh(x))
return (a).forward(y, )"""
    model = with_forward(body, tmp_path)
    (linear,) = nodes(model, "linear")
    last = nodes(model, "scatter_nd")[-1]
    assert linear.inputs[0] == last.outputs[0]
    assert last.inputs[0] == nodes(model, "relu")[0].outputs[0]


def test_what_is_not_known_keeps_its_name(tmp_path: Path) -> None:
    body = "y = ops.mine.wobble((a).forward(x, ), 3)\np, q = ops.mine.halves(y)\nreturn (b).forward(q, )"
    assert ops(with_forward(body, tmp_path)) == ["linear", "mine_wobble", "mine_halves", "linear"]


def test_dead_calls_are_left_out(tmp_path: Path) -> None:
    assert ops(with_forward("_0 = torch.tanh(x)\nreturn (a).forward(x, )", tmp_path)) == ["linear"]


def test_helper_functions_and_defaults(tmp_path: Path) -> None:
    more = "def act(x: Tensor, soft: bool=True) -> Tensor:\n  return torch.tanh(x) if soft else torch.relu(x)\n"
    body = "act = HERE.act\nreturn (a).forward(act(x, ), )"
    model = with_forward(body, tmp_path, more=more)
    assert ops(model) == ["tanh", "linear"]


def test_optional_and_listed_inputs(tmp_path: Path) -> None:
    body = """if torch.__isnot__(mask, None):
  y = torch.mul(x, unchecked_cast(Tensor, mask))
else:
  y = x
return torch.add((a).forward(y, ), many[0])"""
    arguments = "x: Tensor,\n    many: List[Tensor],\n    mask: Optional[Tensor]=None"
    model = with_forward(body, tmp_path, arguments=arguments)
    assert ops(model) == ["linear", "add"]
    assert model.graph is not None and set(model.graph.inputs) == {"x", "many.0"}


HOSTILE = {
    "endless loop": ("while True:\n  y = torch.relu(x)\nreturn x", ""),
    "nested loops": (
        "\n".join(f"{'  ' * i}for i{i} in range(4000):" for i in range(6)) + f"\n{'  ' * 6}y = x",
        "steps",
    ),
    "calls itself": ("return (self).forward(x, )", "deep"),
    "long list": ("y = [1]\nfor i in range(100):\n  y = torch.add(y, y)\nreturn x", ""),
    "doubling list": ("y = [x]\nfor i in range(100):\n  y = [y, y]\nreturn torch.cat(y)", "more than"),
    "list in itself": ("y = annotate(List[Tensor], [])\n_0 = torch.append(y, y)\nreturn torch.cat(y)", "more than"),
    "doubling tuple": ("y = (x, x)\nfor i in range(90):\n  y = (y, y)\nreturn y", "more than"),
    "large power": ("y = torch.pow(10, 1000000000)\nreturn torch.mul((a).forward(x, ), y)", ""),
    "long text": ('y = "a"\nfor i in range(100):\n  y = torch.add(y, y)\nreturn x', ""),
    "shift": ("return torch.mul((a).forward(x, ), torch.__lshift__(1, 1000000000000))", ""),
    "large range": ("for i in range(1000000000000000):\n  y = torch.relu(x)\nreturn (a).forward(y, )", ""),
    "deep parentheses": ("return " + "(" * 3000 + "x" + ")" * 3000, "parsed"),
    "deep calls": ("return " + "torch.relu(" * 150 + "x" + ")" * 150, ""),
    "no such constant": ("return torch.add(x, CONSTANTS.c7)", "c7"),
    "no such attribute": ("return torch.add((a).forward(x, ), self.nothing)", ""),
    "no such method": ("return (a).backward(x, )", ""),
    "no such function": ("return __torch__.os.system(x, )", ""),
    "python of its own": ("import os\nreturn __import__('os').system('false')", ""),
    "lambda": ("f = lambda y: y\nreturn (a).forward(f(x), )", ""),
    "wrong arguments": ("return (a).forward(x, x, x, y=x)", ""),
    "unpacks nothing": ("p, q, = x\nr, s, = 3\nreturn (a).forward(q, )", ""),
    "index out of range": ("y = [x]\nreturn torch.add(y[7], (x, x)[9])", ""),
    "star": ("return (a).forward(*[x])", ""),
    "writes to numbers": ("_0 = torch.add_(3, 4)\n_1 = torch._set_item([1], 9, 2)\nreturn (a).forward(x, )", ""),
    "many branches": (
        "y = x\n" + "if bool(torch.sum(x)):\n  y = torch.relu(y)\nelse:\n  y = torch.tanh(y)\n" * 300,
        "",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_is_survived(tmp_path: Path, name: str) -> None:
    body, reason = HOSTILE[name]
    begin = time.perf_counter()
    model = with_forward(body, tmp_path)
    assert len(model.tensors) == 4
    if reason:
        assert model.graph is None and reason in why(model)
    assert time.perf_counter() - begin < 20


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())
    return save(torch.jit.script(net), tmp_path_factory.mktemp("script") / "m.pt")


def test_cut_off_anywhere(archive: Path, tmp_path: Path) -> None:
    data = archive.read_bytes()
    path = tmp_path / "cut.pt"
    for length in range(1, len(data), 61):
        path.write_bytes(data[:length])
        with pytest.raises(InitauditError):
            formats.read(path)


def test_changed_anywhere(archive: Path, tmp_path: Path) -> None:
    data = archive.read_bytes()
    path = tmp_path / "changed.pt"
    for place in range(0, len(data), 23):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            formats.read(path)
        except InitauditError as error:
            assert "broke the reader" not in str(error), place


def test_code_that_does_not_parse_costs_only_the_graph(archive: Path) -> None:
    model = formats.read(changed(archive, {"modules/linear": "class Linear(Module):\n  def ("}))
    assert model.graph is None and "no source that can be parsed" in why(model)
    assert {t.name for t in model.tensors} == {"0.weight", "0.bias"}


def test_code_that_grows_when_unpacked(archive: Path) -> None:
    bomb = b"# " + bytes(40 << 20)
    model = formats.read(changed(archive, {"modules/linear": bomb}, packed=True))
    assert model.graph is None and len(model.tensors) == 2


def test_constants_that_are_damaged(archive: Path) -> None:
    with pytest.raises(InitauditError):
        formats.read(changed(archive, {"constants.pkl": b"\x80\x02cos\nsystem\n"}))
