"""A recorded pass says what ran: on which weights, in which module, in what order."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from initaudit.errors import InitauditError, UnsupportedError, UsageError
from initaudit.live.fakes import as_fake, fake_mode
from initaudit.live.feeding import outputs_of
from initaudit.live.spec import Feed, Spec
from initaudit.live.trace import Traced, attempt, trace, unwrapped
from initaudit.types import Node
from tests.live.replay import replay

X = Spec((2, 4))


def traced(module: nn.Module, *args: Any, **kwargs: Any) -> Traced:
    return trace(module, Feed(args or (X,), kwargs))


def calls(done: Traced) -> list[str]:
    return [node.call.target for node in done.graph.nodes if node.call]


def reading(done: Traced, name: str) -> list[Node]:
    return [node for node in done.graph.nodes if name in node.inputs]


def same_values(module: nn.Module, *args: torch.Tensor) -> Traced:
    """Trace a module and run its graph: it must give what the module gives."""
    done = trace(module.eval(), Feed(tuple(Spec(tuple(a.shape), str(a.dtype).partition(".")[2]) for a in args)))
    held = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    with torch.no_grad():
        wanted = list(outputs_of(module(*(a.clone() for a in args))))
    given = dict(zip(done.graph.inputs, args, strict=True))
    found = replay(done.graph, given, {k: v for k, v in held.items() if k in done.graph.constants})
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-4, atol=1e-5)
    return done


class Made(nn.Module):
    """A module from a function of itself and its inputs."""

    def __init__(self, forward: Any, **parts: Any) -> None:
        super().__init__()
        self._run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *xs: Any) -> Any:
        return self._run(self, *xs)


def test_a_chain_with_scopes_shapes_and_names() -> None:
    done = traced(nn.Sequential(nn.Linear(4, 8), nn.GELU(approximate="tanh"), nn.Linear(8, 3, bias=False)))
    first, middle, last = done.graph.nodes
    assert (first.op, first.inputs, first.attrs["@scope"]) == ("linear", ("input", "0.weight", "0.bias"), "0")
    assert (middle.op, middle.attrs["approximate"]) == ("gelu", "tanh")
    assert last.inputs[1:] == ("2.weight",)
    assert done.graph.inputs == {"input": (2, 4)}
    assert done.graph.outputs == last.outputs
    assert done.graph.shapes[last.outputs[0]] == (2, 3)
    assert done.graph.constants["0.weight"].shape == (8, 4)
    assert done.graph.constants["0.weight"].load().shape == (8, 4)
    assert (done.how, done.notes, done.read) == ("fake", (), {"0.weight", "0.bias", "2.weight"})


@pytest.mark.parametrize("kind", ["meta", "ours", "another mode's"])
def test_parameters_without_values(kind: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    wanted = trace(module, Feed((Spec((2, 3, 8, 8)),)))
    if kind == "meta":
        module = module.to("meta")
    else:
        mode = fake_mode() if kind == "ours" else type(fake_mode())()
        for each in module.modules():
            for name, parameter in each._parameters.items():
                if parameter is not None:
                    fake = as_fake(parameter) if kind == "ours" else mode.from_tensor(parameter)
                    each._parameters[name] = nn.Parameter(fake)
    done = trace(module, Feed((Spec((2, 3, 8, 8)),)))
    assert [(n.op, n.inputs) for n in done.graph.nodes] == [(n.op, n.inputs) for n in wanted.graph.nodes]
    with pytest.raises(InitauditError):
        done.graph.constants["0.weight"].load()


def test_nothing_is_allocated() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(1 << 16, 1 << 16), nn.Linear(1 << 16, 1 << 16))
    assert len(trace(module, Feed((Spec((1 << 14, 1 << 16)),))).graph.nodes) == 2


def test_tied_weights_and_modules_called_twice() -> None:
    module = Made(lambda m, i: m.head(m.inner(m.inner(m.emb(i)))), emb=nn.Embedding(7, 4), inner=nn.Linear(4, 4))
    module.head = nn.Linear(4, 7, bias=False)
    module.head.weight = module.emb.weight
    done = traced(module, Spec((2, 3), "int64", 7))
    assert [n.op for n in reading(done, "emb.weight")] == ["embedding", "linear"]
    assert len(reading(done, "inner.weight")) == 2
    assert "head.weight" not in done.graph.constants


def test_views_of_parameters_are_operations() -> None:
    same_values(
        Made(lambda m, x: x @ m.w.T[:, :3] + m.w[0, :3] + m.stack[1, :3], w=nn.Parameter(torch.randn(4, 4)),
             stack=nn.Parameter(torch.randn(2, 5))),
        torch.randn(2, 4),
    )  # fmt: skip
    done = traced(Made(lambda m, x: x @ m.w.t(), w=nn.Parameter(torch.randn(3, 4))))
    assert [n.op for n in done.graph.nodes] == ["transpose", "matmul"]


def test_two_parameters_in_one_storage_share_it() -> None:
    flat = torch.randn(32)
    module = Made(
        lambda m, x: x @ m.a @ m.b, a=nn.Parameter(flat[:16].view(4, 4)), b=nn.Parameter(flat[16:].view(4, 4))
    )
    constants = traced(module).graph.constants
    assert constants["a"].storage == constants["b"].storage
    assert (constants["a"].offset, constants["b"].offset) == (0, 16)


def _writes(m: Any, x: torch.Tensor) -> Any:
    y = m.a(x)
    before = y.exp()
    flat = y.view(-1)
    flat.mul_(2)
    y[0] += m.b(x)[0]
    y[:, 1] = 3.0
    left = y[:, :2]
    left.relu_()
    columns = y.t()
    columns[0].neg_()
    out = torch.empty_like(x)
    with torch.no_grad():
        torch.add(y, 1, out=out)
        halves = y.detach().chunk(2, 1)
        halves[1].add_(1)
        y.data.mul_(3)
    return {"sum": out, "rest": [y, (flat,)], "before": before}


def test_writes_through_views_reach_all_that_see_them() -> None:
    done = same_values(Made(_writes, a=nn.Linear(4, 4), b=nn.Linear(4, 4)), torch.randn(2, 4))
    made = [name for node in done.graph.nodes for name in node.outputs if name]
    assert len(made) == len(set(made)), "every value is made once"
    assert "scatter_nd" in {node.op for node in done.graph.nodes}


def test_reading_a_part_of_itself_into_itself_is_no_writing_back() -> None:
    def swap(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x).detach()
        y[1] = y[0]
        return y

    same_values(Made(swap, a=nn.Linear(4, 4)), torch.randn(2, 4))


def test_attention_is_seen_in_its_parts() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    done = same_values(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(2, 5, 8))
    assert [n.attrs["@scope"] for n in reading(done, "layers.1.self_attn.in_proj_weight")] == ["layers.1.self_attn"]
    assert calls(done).count("scaled_dot_product_attention") == 2
    assert "multi_head_attention_forward" not in calls(done)
    same_values(Made(lambda m, x: m.a(x, x, x), a=nn.MultiheadAttention(8, 2, kdim=8, vdim=8)), torch.randn(5, 2, 8))


def test_a_dropout_that_is_off_is_seen_where_it_stands() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(3, 2)
            self.drop, self.none = nn.Dropout(0.3), nn.Dropout(0.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x, rest = self.a(x).chunk(2, -1)
            x = self.none(self.drop(x))
            return self.b(torch.relu(x) + rest)

    done = same_values(Dropped(), torch.randn(2, 4))
    (node,) = [node for node in done.graph.nodes if node.op == "dropout"]
    assert (node.attrs["ratio"], node.attrs["@scope"]) == (0.3, "drop")
    assert [n.op for n in reading(done, node.outputs[0])] == ["relu"]


def test_functions_of_torch_and_of_functional_take_arguments_in_one_order() -> None:
    norm = nn.BatchNorm1d(4)
    norm.weight.data.uniform_(0.5, 2)
    norm.running_mean = torch.randn(4)

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        n = m.norm
        one = torch.batch_norm(x, n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, 1e-5, False)
        return one + m.norm(x) + torch.embedding(m.e, torch.arange(2))

    done = same_values(Made(forward, norm=norm, e=nn.Parameter(torch.randn(3, 4))), torch.randn(2, 4))
    wanted = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    assert [n.inputs[1:] for n in done.graph.nodes if n.op == "batch_norm"] == [wanted, wanted]
    assert [n.inputs[0] for n in done.graph.nodes if n.op == "embedding"] == ["e"]


class _Clamped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return nn.functional.linear(x, w).clamp(min=0)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        return g, None


@torch.jit.script
def _scripted(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    y = torch.nn.functional.linear(x, w)
    if y.size(0) > 1:
        y = torch.relu(y)
    return y


def _custom(m: Any, x: torch.Tensor) -> torch.Tensor:
    x = _Clamped.apply(m.b(x), m.w)
    x = torch.utils.checkpoint.checkpoint(m.b, x, use_reentrant=False)
    x = torch.utils.checkpoint.checkpoint(m.b, x, use_reentrant=True)
    return torch.func.functional_call(m.b, dict(m.b.named_parameters()), (x,))


def _vmapped(m: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.vmap(lambda w: nn.functional.gelu(nn.functional.linear(x, w)))(m.stack).sum(0) + m.b(x)


def _written_in_script(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.script(_scripted(x, m.w))


@pytest.mark.parametrize("forward", [_custom, _vmapped, _written_in_script])
def test_code_beside_torch_functions_is_seen(forward: Any) -> None:
    module = Made(forward, w=nn.Parameter(torch.randn(4, 4)), b=nn.Linear(4, 4))
    if forward is _vmapped:
        module.stack = nn.Parameter(torch.randn(3, 4, 4))
    if forward is _written_in_script:
        module.script = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()))
    done = same_values(module, torch.randn(2, 4))
    assert set(done.graph.inputs) == {"xs"}
    assert not [name for name in done.graph.constants if name.startswith("%k")]


def test_parametrized_weights_are_computed_from_what_is_stored() -> None:
    from torch.nn.utils import parametrizations as p

    module = nn.Sequential(
        p.weight_norm(nn.Linear(4, 4)), p.spectral_norm(nn.Linear(4, 4)), p.orthogonal(nn.Linear(4, 4))
    )
    done = same_values(module, torch.randn(2, 4))
    assert reading(done, "0.parametrizations.weight.original0")
    assert reading(done, "1.parametrizations.weight.original")


def test_recurrent_layers_and_packed_sequences() -> None:
    def forward(m: Any, x: torch.Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 4]), batch_first=True, enforce_sorted=False)
        y, lengths = nn.utils.rnn.pad_packed_sequence(m.lstm(packed)[0], batch_first=True)
        z, state = m.gru(y)
        return z, m.cell(state[0])[0], lengths

    parts = {
        "lstm": nn.LSTM(4, 5, 2, bidirectional=True, batch_first=True),
        "gru": nn.GRU(10, 3),
        "cell": nn.LSTMCell(3, 3),
    }
    done = traced(Made(forward, **parts), Spec((2, 6, 4)))
    assert [n.op for n in done.graph.nodes if n.op in {"lstm", "gru"}] == ["lstm", "lstm", "gru", "lstm"]
    assert done.graph.shapes[done.graph.outputs[0]] == (2, 6, 3)
    assert {n for n, _ in Made(forward, **parts).named_parameters()} == done.read


@dataclasses.dataclass
class _Out:
    value: torch.Tensor
    more: list[Any]


def test_inputs_and_outputs_in_containers() -> None:
    class Fed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Any, *rest: Any, flag: bool = True, **kw: Any) -> _Out:
            y = self.a(x["q"] + rest[0])
            return _Out(y, [y + 1, {"z": y * kw["m"]}])

    done = trace(Fed(), Feed(({"q": X}, torch.ones(2, 4)), {"m": Spec((1,)), "flag": False}))
    assert done.graph.inputs == {"x.q": (2, 4), "rest": (2, 4), "m": (1,)}
    assert len(done.graph.outputs) == 3


def test_constants_go_by_the_attribute_that_holds_them() -> None:
    module = Made(lambda m, x: x * m.scale + m.tables[1] + torch.tensor([1.0, 2.0, 3.0, 4.0]), scale=2 * torch.ones(4))
    module.tables = [None, torch.ones(4)]
    done = traced(module)
    constants = done.graph.constants
    assert constants["scale"].load().tolist() == [2, 2, 2, 2]
    assert constants["tables.1"].buffer
    assert [c.load().tolist() for name, c in constants.items() if name.startswith("%k")] == [[1, 2, 3, 4]]


def test_prefix_is_put_before_parameters() -> None:
    done = trace(nn.Linear(4, 4), Feed((X,)), prefix="net.")
    assert done.read == {"net.weight", "net.bias"}
    assert set(done.graph.constants) == {"net.weight", "net.bias"}


class _Restless(nn.Module):
    """Changes itself and the world in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.small = nn.Embedding(4, 4, max_norm=0.1)
        self.register_buffer("steps", torch.zeros(()), persistent=False)
        self.seen: list[Any] = []
        self.cache: dict[str, Any] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "late"):
            self.late = nn.Linear(4, 4)
        self.steps += 1
        self.steps = self.steps + 1
        self.a.training, self.cache["x"] = True, x
        self.seen.append(x)
        torch.manual_seed(3)
        x.mul_(2)
        return self.bn(self.late(self.a(x))) + self.small(torch.zeros(1, dtype=torch.long)) + torch.rand(4)


def test_the_module_is_left_as_it_was() -> None:
    module = _Restless().train()
    module.bn.eval()
    module.a.weight.grad = torch.ones(4, 4)
    module.a.bias.requires_grad_(False)
    x = torch.randn(2, 4)
    kept = {k: v.clone() for k, v in module.state_dict().items()}
    about = [(path, m.training, sorted(vars(m)), list(m._forward_hooks)) for path, m in module.named_modules()]
    identities = {name: (id(p), p._version, p.requires_grad) for name, p in module.named_parameters()}
    drawn, given = torch.get_rng_state(), x.clone()
    trace(module, Feed((x,)))
    assert about == [(path, m.training, sorted(vars(m)), list(m._forward_hooks)) for path, m in module.named_modules()]
    assert identities == {name: (id(p), p._version, p.requires_grad) for name, p in module.named_parameters()}
    assert all(torch.equal(kept[name], value) for name, value in module.state_dict().items())
    assert torch.equal(module.a.weight.grad, torch.ones(4, 4))
    assert (module.seen, module.cache, float(module.steps)) == ([], {}, 0.0)
    assert torch.equal(drawn, torch.get_rng_state())
    assert torch.equal(x, given)


def test_an_exported_program_has_one_mode() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 2)).eval()
    exported = torch.export.export(module, (torch.randn(2, 4),)).module()
    with pytest.raises(NotImplementedError):
        exported.train()
    assert traced(exported).read == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_one_attempt_tells_whether_the_arguments_fit() -> None:
    module = Made(lambda m, x: m.a(x) if x.sum() > 0 else m.b(x), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    first = attempt(module, Feed((X,)))
    assert (first.read, first.other) == ({"a.weight", "a.bias"}, ())
    assert trace(module, Feed((X,)), first=first).read == {"b.weight", "b.bias"}
    with pytest.raises(InitauditError, match="RuntimeError"):
        attempt(module, Feed((Spec((2, 5)),)))


def test_an_error_is_one_line_that_says_where() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(5, 5)))
    with pytest.raises(UnsupportedError) as caught:
        traced(module)
    assert "1.1 (Linear)" in caught.value.reason
    assert "RuntimeError" in caught.value.reason
    assert "\n" not in caught.value.reason
    assert not torch.overrides._len_torch_function_stack()
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_arguments_that_do_not_fit_and_lazy_modules() -> None:
    with pytest.raises(InitauditError, match="missing 1 required positional argument"):
        trace(nn.Linear(4, 4), Feed())
    with pytest.raises(UsageError, match=r"0\.weight"):
        traced(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(UsageError, match="float7"):
        traced(nn.Linear(4, 4), Spec((2, 4), "float7"))


def test_an_auxiliary_head_is_read_in_training_mode() -> None:
    def forward(m: Any, x: torch.Tensor) -> Any:
        y = m.norm(m.a(x))
        return (m.head(y), m.aux(y)) if m.training else m.head(y)

    parts = {"a": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4), "head": nn.Linear(4, 2), "aux": nn.Linear(4, 2)}
    done = traced(Made(forward, **parts), Spec((1, 4)))
    assert "aux.weight" in done.read
    assert any("training mode" in note for note in done.notes)


def test_what_leads_nowhere_is_left_out_but_weights() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        torch.ones(4).sum()
        if y.isnan().any():
            y = y + 1
        m.kept = m.gate(y).sigmoid()
        return y

    done = traced(Made(forward, a=nn.Linear(4, 4), gate=nn.Linear(4, 4)))
    assert [n.op for n in done.graph.nodes] == ["linear", "linear", "sigmoid"]
    assert [[n.op for n in graph.nodes] for graph in done.other] == [["linear", "add", "linear", "sigmoid"]]


def test_wrappers_are_taken_off() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    assert trace(nn.DataParallel(module), Feed((X,))).read == {"0.weight", "0.bias"}
    assert trace(torch.compile(module), Feed((X,))).read == {"0.weight", "0.bias"}
    scripted = torch.jit.script(module)
    assert unwrapped(scripted) is scripted
    inner = nn.Sequential(torch.compile(nn.Linear(4, 4)))
    assert trace(inner, Feed((X,))).read == {"0._orig_mod.weight", "0._orig_mod.bias"}


def test_devices_and_casts() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x.to("cuda").cuda().to(torch.device("cuda:0"))) + torch.ones(4, device="cuda")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = m.a(y)
        with torch.inference_mode():
            z = m.a(x)
            z.add_(1)
        return y.to(m.a.weight.device, torch.float32) + z

    done = traced(Made(forward, a=nn.Linear(4, 4)))
    assert [n.op for n in done.graph.nodes] == ["linear", "source", "add", "linear", "linear", "add", "cast", "add"]
