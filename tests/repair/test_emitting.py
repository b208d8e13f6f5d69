"""Emitted code draws the laws of its recipes, in every layout and under every name."""

import numpy as np
import pytest

from initaudit import schemes
from initaudit.edits import Plan, Reached, Recipe
from initaudit.errors import UsageError
from initaudit.repair.drawing import draw
from initaudit.repair.emitting import emit
from initaudit.repair.forms import form_of
from initaudit.types import Role
from tests.build import layer, tensor
from tests.repair.test_drawing import LSTM, measured, wrapped, zeros

torch = pytest.importorskip("torch")

GRU = ("reset", "update", "new")
LAYOUTS = {
    "linear": ((40, 30), {}),
    "Conv1D": ((30, 40), {"axes": "io"}),
    "Conv1D of three": ((32, 96), {"axes": "io", "parts": ("query", "key", "value")}),
    "conv": ((40, 20, 3, 3), {"kind": "conv", "axes": "oikk"}),
    "grouped": ((40, 5, 3, 3), {"kind": "conv", "axes": "oikk", "groups": 4}),
    "depthwise": ((40, 1, 5), {"kind": "conv", "axes": "oik", "groups": 40}),
    "transposed": ((20, 40, 3, 3), {"kind": "conv_transpose", "axes": "iokk", "stride": (2, 2)}),
    "transposed grouped": ((20, 10, 3), {"kind": "conv_transpose", "axes": "iok", "groups": 4}),
    "lstm": ((160, 40), {"kind": "lstm", "parts": LSTM}),
    "experts": ((3, 24, 20), {"axes": "soi"}),
    "experts (in, out)": ((3, 20, 24), {"axes": "sio"}),
    "experts of two": ((3, 20, 48), {"axes": "sio", "parts": ("gate", "up")}),
    "stacks of stacks": ((2, 3, 24, 20), {"axes": "ssoi"}),
    "heads": ((20, 4, 6), {"axes": "ioo"}),
}


class Model(torch.nn.Module):
    """A parameter under any name whose parts no dot is in."""

    def __init__(self, **tensors):
        super().__init__()
        for name, shape in tensors.items():
            module = self
            *path, last = name.split(".")
            for step in path:
                if step not in module._modules:
                    module.add_module(step, torch.nn.Module())
                module = module._modules[step]
            module.register_parameter(last, torch.nn.Parameter(torch.full(shape, 9.0)))


def run(text, model, seed=0):
    space = {}
    exec(compile(text, "initialize.py", "exec"), space)
    torch.manual_seed(seed)
    space["initialize"](model)
    return model


def code(one, scheme, **fields):
    return emit(Plan((Recipe(measured(one), one.weight, scheme, "--all", **fields),)))


def emitted(one, scheme, shape=None, **fields):
    """The values that emitted code gives the weight of a layer called w."""
    model = run(code(one, scheme, **fields), Model(**{one.weight.name: shape or one.weight.shape}))
    return model.get_parameter(one.weight.name).detach().numpy()


SPELLED = {"constant": "constant:value=0.5", "orthogonal": "orthogonal:gain=1.5", "xavier": "xavier:gain=2"}


@pytest.mark.parametrize("where", LAYOUTS)
@pytest.mark.parametrize("row", schemes.ROWS, ids=lambda r: r.name)
def test_the_code_draws_the_law_of_the_scheme(row, where):
    shape, fields = LAYOUTS[where]
    one = layer("w", zeros(*shape), **fields)
    text = SPELLED.get(row.name, row.name)
    if row.law == "delta-orthogonal" and form_of(one, one.weight).operator[1] * form_of(one, one.weight).blocks > 40:
        pytest.skip("more inputs than outputs")
    recipe = Recipe(measured(one), one.weight, text, "--all")
    try:
        ours = draw(recipe, 0)
    except schemes.row.UsageError:
        pytest.skip("no such draw here")
    theirs = emitted(one, text).astype(np.float64)
    if row.law in ("constant", "dirac", "identity"):
        assert np.allclose(theirs, ours, rtol=1e-6)
        return
    form = form_of(one, one.weight)
    ours, theirs = (
        form.canonical(w).reshape(form.stack * form.blocks, form.out // form.blocks, -1) for w in (ours, theirs)
    )
    n = ours.size
    assert theirs.std() == pytest.approx(ours.std(), rel=8 / np.sqrt(n))
    assert abs(theirs.mean() - ours.mean()) < 8 * ours.std() / np.sqrt(n)
    if row.law in ("orthogonal", "delta-orthogonal"):
        same = np.linalg.svd(theirs, compute_uv=False) - np.linalg.svd(ours, compute_uv=False)
        assert np.abs(same).max() < 1e-5
        assert (theirs == 0).mean() == pytest.approx((ours == 0).mean())
    elif row.law == "sparse":
        assert ((theirs == 0).sum(1) == (ours == 0).sum(1)).all()
    elif row.law in ("uniform", "truncated"):
        assert np.abs(theirs).max() == pytest.approx(np.abs(ours).max(), rel=0.02 if row.law == "uniform" else 0.2)


@pytest.mark.parametrize(
    "scheme, call",
    [
        ("he", 'kaiming_normal_(model.get_parameter("w.weight"), nonlinearity="relu")'),
        ("he-uniform:mode=fan_out", 'kaiming_uniform_(model.get_parameter("w.weight"), mode="fan_out", non'),
        ("lecun", 'kaiming_normal_(model.get_parameter("w.weight"), nonlinearity="linear")'),
        ("glorot-uniform:gain=2", 'xavier_uniform_(model.get_parameter("w.weight"), gain=2)'),
        ("torch-default", 'kaiming_uniform_(model.get_parameter("w.weight"), a=5**0.5)'),
        ("he:branches=4", 'normal_(model.get_parameter("w.weight"), std='),
        ("he:activation=gelu", 'normal_(model.get_parameter("w.weight"), std='),
        ("zeros", 'zeros_(model.get_parameter("w.weight"))'),
        ("constant:value=-2", 'constant_(model.get_parameter("w.weight"), -2)'),
        ("orthogonal:gain=2", 'orthogonal_(model.get_parameter("w.weight"), gain=2)'),
    ],
)
def test_plain_layers_get_plain_calls(scheme, call):
    text = code(layer("w", zeros(40, 30)), scheme)
    assert f"    torch.nn.init.{call}" in text
    assert text.count("def ") == 1  # no helper that is not used
    assert "import math" not in text


def test_half_precision_is_drawn_in_full():
    one = layer("w", np.zeros((20, 20), np.float16))
    model = run(code(one, "orthogonal"), Model(**{"w.weight": (20, 20)}).half())
    w = model.get_parameter("w.weight").detach().double().numpy()
    assert np.abs(np.linalg.svd(w, compute_uv=False) - 1).max() < 5e-3


# ---- parts, units, padding, what goes along


def test_a_part_with_a_scheme_of_its_own_is_filled_after_the_whole():
    onnx = ("input", "output", "forget", "cell")  # as a file may have them: the model has torch's order
    bias = tensor("rnn.bias_ih_l0", zeros(32))
    one = layer("rnn.weight_ih_l0", zeros(1, 32, 6), kind="lstm", axes="soi", parts=onnx, bias=bias,
                weight=tensor("rnn.weight_ih_l0", zeros(1, 32, 6)))  # fmt: skip
    told = Recipe(measured(one), bias, "zeros", "INI501", by_part={"forget": "ones"}, about="forget gate open")
    mixed = Recipe(measured(one), one.weight, "xavier", "INI501", by_part={"cell": "orthogonal"})
    model = run(emit(Plan((told, mixed))), Model(**{"rnn.weight_ih_l0": (32, 6), "rnn.bias_ih_l0": (32,)}))
    assert model.get_parameter("rnn.bias_ih_l0").tolist() == [0] * 8 + [1] * 8 + [0] * 16
    w = model.get_parameter("rnn.weight_ih_l0").detach().numpy()
    assert np.allclose(w[16:24].T @ w[16:24], np.eye(6), atol=1e-5)
    assert not np.allclose(w[:8].T @ w[:8], np.eye(6), atol=1e-2)


@pytest.mark.parametrize(
    "shape, fields, units, index",
    [
        ((12, 5), {}, (3, 5), np.s_[[3, 5]]),
        ((5, 12), {"axes": "io"}, (3, 5), np.s_[:, [3, 5]]),
        ((4, 3, 2), {"axes": "iok", "kind": "conv_transpose", "groups": 2}, (4,), np.s_[2:, 1]),
        ((2, 3, 4), {"axes": "soi"}, (4,), np.s_[1, 1]),
        ((2, 4, 3), {"axes": "sio"}, (4,), np.s_[1, :, 1]),
    ],
    ids=str,
)
def test_only_the_units_named_are_drawn(shape, fields, units, index):
    w = emitted(layer("w", zeros(*shape), **fields), "normal:std=0.1", units=units)
    chosen = np.zeros(shape, bool)
    chosen[index] = True
    assert (w[~chosen] == 9).all()
    assert (np.abs(w[chosen]) < 1).all()
    assert len(set(w[chosen].tolist())) == chosen.sum()


@pytest.mark.parametrize("scheme", ["orthogonal:gain=1.5", "delta-orthogonal:gain=1.5"])
@pytest.mark.parametrize("name", [n for n in LAYOUTS if n not in ("depthwise", "stacks of stacks")])
def test_units_are_drawn_orthogonal_beside_those_that_stay(name, scheme):
    shape, fields = LAYOUTS[name]
    one = layer("w", zeros(*shape), **fields)
    try:
        w = draw(Recipe(measured(one), one.weight, scheme, ""), 0)
    except UsageError:
        pytest.skip("no such draw of this shape")
    one = layer("w", w.astype(np.float32), **fields)
    form = form_of(one, one.weight)
    units = (1, form.out - 2, form.out * form.stack - 1)
    holder = Model(**{"w.weight": shape})
    with torch.no_grad():
        holder.get_parameter("w.weight").copy_(torch.from_numpy(w))
    plan = Plan((Recipe(measured(one), one.weight, scheme, "INI201", units=tuple(sorted(set(units)))),))
    new = run(emit(plan), holder).get_parameter("w.weight").detach().double().numpy()
    changed = (form.canonical(new) != form.canonical(w.astype(np.float32))).reshape(form.stack * form.out, -1).any(1)
    assert np.flatnonzero(changed).tolist() == sorted(set(units))
    blocks = form.canonical(new).reshape(form.stack * form.blocks, form.out // form.blocks, -1)
    short = min(blocks.shape[1:]) if scheme.startswith("orth") else form.operator[1]
    for block in blocks:
        values = np.linalg.svd(block, compute_uv=False)[:short]
        assert np.abs(values - 1.5).max() < 1e-4


def test_units_of_gates_are_drawn_where_torch_has_them():
    onnx = ("input", "output", "forget", "cell")
    w = draw(Recipe(measured(layer("a", zeros(32, 8), kind="lstm", parts=LSTM)), tensor("a.weight", zeros(32, 8)),
                    "normal:std=1", ""), 0)  # fmt: skip
    stored = w.reshape(4, 8, 8)[[0, 3, 1, 2]].reshape(1, 32, 8).astype(np.float32)
    one = layer("rnn.weight_hh_l0", stored, kind="lstm", axes="soi", parts=onnx,
                weight=tensor("rnn.weight_hh_l0", stored))  # fmt: skip
    for scheme in ("normal:std=0.1", "orthogonal"):
        model = Model(**{"rnn.weight_hh_l0": (32, 8)})
        run(emit(Plan((Recipe(measured(one), one.weight, scheme, "INI201", units=(18,)),))), model)
        new = model.get_parameter("rnn.weight_hh_l0").detach().numpy()
        assert np.flatnonzero((new != 9).any(1)).tolist() == [10]  # the third unit of the forget gate


def test_padding_rows_stay_zero():
    one = layer("w", zeros(10, 4), kind="embedding", axes="io", role=Role.EMBEDDING, padding=3)
    w = emitted(one, "torch-default")
    assert (w[3] == 0).all()
    assert (np.delete(w, 3, 0) != 0).all()


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_what_a_weight_is_made_of_follows(kind):
    module, one = wrapped(kind)
    text = emit(Plan((Recipe(measured(one), one.weight, "orthogonal", "--all"),)))
    holder = torch.nn.Module()
    holder.c = module
    run(text, holder)
    w = module.eval().weight.detach().flatten(1).numpy()
    assert np.abs(np.linalg.svd(w, compute_uv=False) - 1).max() < 0.02


def test_the_scales_of_lsuv_become_gains():
    fc, rnn = layer("fc", zeros(20, 20)), layer("rnn.weight_hh_l0", zeros(40, 10), kind="lstm", parts=LSTM,
                                                weight=tensor("rnn.weight_hh_l0", zeros(40, 10)))  # fmt: skip
    experts = layer("mlp.experts.w1", zeros(2, 8, 8), axes="soi", weight=tensor("mlp.experts.w1", zeros(2, 8, 8)))
    plan = Plan(tuple(Recipe(measured(one), one.weight, "lsuv", "--all") for one in (fc, rnn, experts)))
    reached = [
        Reached("fc", scale=2.5), Reached("fc", "use 2", scale=1.0),
        *(Reached("rnn.weight_hh_l0", gate, scale=scale) for gate, scale in zip(LSTM, (1, 2, 3, 4), strict=True)),
        *(Reached("mlp.experts.w1", f"expert {n}", scale=scale) for n, scale in enumerate((5, 6))),
    ]  # fmt: skip
    text = emit(plan, reached=reached)
    assert "Gains are the scales that LSUV came to" in text
    model = run(text, Model(**{r.tensor.name: r.tensor.shape for r in plan.recipes}))

    def gains(name, count=1):
        w = model.get_parameter(name).detach().numpy().reshape(count, -1, model.get_parameter(name).shape[-1])
        return np.linalg.svd(w, compute_uv=False).mean(1).tolist()

    assert gains("fc.weight") == pytest.approx([2.5])
    assert gains("rnn.weight_hh_l0", 4) == pytest.approx([1, 2, 3, 4])
    assert gains("mlp.experts.w1", 2) == pytest.approx([5, 6])


# ---- names


@pytest.mark.parametrize(
    "name",
    ['qu"ote', "apo's", "both\"'", "new\nline", "bra{ce}", "back\\slash", "tab\t", "naïve", "\u202e", '"""'],
)
def test_no_name_gets_out_of_its_quotes(name):
    blocks = [layer(f"{name}{n}", zeros(6, 5)) for n in range(3)]
    text = emit(Plan(tuple(Recipe(measured(b), b.weight, "zeros", "--all") for b in blocks)), source=name, names=())
    model = run(text, Model(**{b.weight.name: (6, 5) for b in blocks}))
    assert all((p == 0).all() for p in model.parameters())
    assert len(list(model.parameters())) == 3
    assert text.isprintable() or all(line.isprintable() for line in text.splitlines())


def plan_of(names, scheme="he", **fields):
    made = [layer(name, zeros(6, 5), **fields) for name in names]
    return Plan(tuple(Recipe(measured(one), one.weight, scheme, "INI501") for one in made))


def test_what_a_wrapper_put_before_all_names_is_taken_off():
    plan = plan_of(["module.fc", "module.head"])
    assert '"fc.weight"' in emit(plan, names=["module.fc.weight", "module.head.weight", "module.n.weight"])
    assert '"module.fc.weight"' in emit(plan, names=["module.fc.weight", "head.weight"])  # a part called so
    assert '"enc.fc.weight"' in emit(plan_of(["enc._orig_mod.fc"]))


def test_tensors_without_a_name_are_told_and_left_out():
    one = layer("onnx::MatMul_3", zeros(6, 5), weight=tensor("onnx::MatMul_3", zeros(6, 5)))
    text = emit(Plan((Recipe(measured(one), one.weight, "he", ""),)))
    assert "does not tell the names of 1 tensors" in text
    assert "get_parameter" not in text
    run(text, Model())


def test_a_matrix_that_an_exporter_turned_round_is_drawn_as_the_module_has_it():
    parts = ("query", "key", "value")
    one = layer("attn.qkv", zeros(32, 96), axes="io", weight=tensor("onnx::MatMul_9", zeros(32, 96)), parts=parts)
    model = run(code(one, "orthogonal"), Model(**{"attn.qkv.weight": (96, 32)}))
    w = model.get_parameter("attn.qkv.weight").detach().numpy().reshape(3, 32, 32)
    assert np.abs(np.linalg.svd(w, compute_uv=False) - 1).max() < 1e-5


# ---- loops and comments


def body(text):
    return [line.strip() for line in text[text.index("again.") :].splitlines()[1:]]


def test_repeated_blocks_are_one_loop():
    names = [f"layers.{n}.{part}" for n in range(12) for part in ("q", "k", "mlp.0")]
    told = body(emit(plan_of(["stem", *names, "head"])))
    assert [line for line in told if line.startswith("for")] == ["for n in range(12):"]
    assert sum("kaiming_normal_" in line for line in told) == 5
    assert any("layers.{n}.q: INI501 vanishing-signal" in line for line in told)
    assert any('get_parameter(f"layers.{n}.mlp.0.weight")' in line for line in told)
    model = run(
        emit(plan_of(["stem", *names, "head"])), Model(**{f"{n}.weight": (6, 5) for n in ["stem", *names, "head"]})
    )
    assert all((p != 9).all() for p in model.parameters())


def test_gaps_and_other_laws_are_no_range():
    told = body(emit(plan_of(["l.0", "l.2", "l.4"])))
    assert "for n in (0, 2, 4):" in told
    mixed = Plan((*plan_of(["l.0", "l.1"]).recipes, *plan_of(["l.2", "l.3"], "zeros").recipes))
    told = body(emit(mixed))
    assert [line for line in told if line.startswith("for")] == ["for n in range(2):", "for n in range(2, 4):"]
    assert not any(line.startswith("for") for line in body(emit(plan_of(["a1.b1", "a2.b2", "a2.b3"])))[:1])
    assert not any(line.startswith("for") for line in body(emit(plan_of(["l.01", "l.02"]))))  # n would be 1, not 01


def test_every_layer_says_what_was_wrong_and_what_it_gets():
    values = np.full((6, 5), 0.25, np.float32)
    one = layer("fc", values)
    text = emit(Plan((Recipe(measured(one), one.weight, "he", "INI201", about="followed by relu"),)), source="net.pt")
    assert "# fc: INI201 " in text
    assert "was all 0.25; now he (followed by relu)" in text
    assert "`initaudit fix` chose for net.pt" in text
    assert max(map(len, text.splitlines())) <= 120


def test_long_names_get_lines_of_their_own():
    name = ".".join(["transformer", "encoder", "layers", "0", "attention", "self", "projections", "query", "inner"])
    text = emit(plan_of([name], "orthogonal:gain=1.2345"))
    assert max(map(len, text.splitlines())) <= 120
    assert "torch.nn.init.orthogonal_(w, gain=1.2345)" in text
    run(text, Model(**{f"{name}.weight": (6, 5)}))


def test_nothing_to_do_is_still_a_module():
    run(emit(Plan(())), Model())
