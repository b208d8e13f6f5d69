"""What a draw depends on, and how it lies in the stored tensor."""

import numpy as np
import pytest

from initaudit import laws, schemes, stats
from initaudit.edits import Recipe
from initaudit.errors import UsageError
from initaudit.repair.drawing import companions, draw, original_name
from initaudit.repair.forms import form_of
from initaudit.types import Measured, Role
from tests.build import he, layer, tensor

LSTM = ("input", "forget", "cell", "output")
ONNX_LSTM = ("input", "output", "forget", "cell")


def measured(one):
    return Measured(one, stats.measure(one.weight, one.axes, groups=one.groups, parts=max(1, len(one.parts))))


def recipe(one, scheme="he", of=None, **fields):
    return Recipe(measured(one), of or one.weight, scheme, "--all", **fields)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def made(one, scheme="he", seed=0, **fields):
    return draw(recipe(one, scheme, **fields), seed)


# ---- what enters a draw


def test_a_draw_depends_on_seed_name_shape_and_scheme_only():
    fc = layer("fc", zeros(30, 20))
    first = made(fc)
    assert first.dtype == np.float64
    assert (first == made(fc)).all()
    for other in (made(fc, seed=1), made(layer("fd", zeros(30, 20))), made(fc, "he-uniform"), made(fc, "he:gain=1.4")):
        assert not (first == other).any()
    wide = made(layer("fc", zeros(30, 21)))
    assert not (wide[:, :20] == first).any()


def test_neither_dtype_nor_what_else_is_known_of_a_layer_enters():
    first = made(layer("fc", zeros(30, 20)))
    other = layer("fc", np.ones((30, 20), np.float16), role=Role.HEAD, activation="tanh", kind="attention")
    assert (made(other) == first).all()


def test_two_spellings_of_a_scheme_are_one():
    fc = layer("fc", zeros(30, 20))
    assert (made(fc, "he") == made(fc, "Kaiming_Normal:mode=fan_in")).all()
    assert (made(fc, "normal") == made(fc, "gaussian:std=0.02")).all()
    assert (made(fc, "he:gain=1,mode=fan_out") == made(fc, "he:mode=fan_out,gain=1")).all()


# ---- how it lies


def test_a_turned_matrix_gets_the_turned_values():
    assert (made(layer("fc", zeros(30, 20))) == made(layer("fc", zeros(20, 30), axes="io")).T).all()


def test_kernel_axes_may_stand_anywhere():
    torch = made(layer("c", zeros(8, 4, 3, 5), kind="conv", axes="oikk"))
    flax = made(layer("c", zeros(3, 5, 4, 8), kind="conv", axes="kkio"))
    assert (torch == flax.transpose(3, 2, 0, 1)).all()
    assert (made(layer("c", zeros(8, 4, 1), kind="conv", axes="oik"))[..., 0] == made(layer("c", zeros(8, 4)))).all()


def test_groups_of_a_transposed_convolution_are_the_outermost_output_units():
    groups, ins, outs = 2, 3, 5
    one = layer("c", zeros(groups * ins, outs, 2, 2), kind="conv_transpose", axes="iokk", groups=groups)
    w = made(one)
    plain = made(layer("c", zeros(groups * outs, ins, 2, 2), kind="conv", groups=groups, axes="oikk"), "he", 0)
    there = plain.reshape(groups, outs, ins, 2, 2).transpose(0, 2, 1, 3, 4).reshape(w.shape)
    assert np.allclose(w / w.std(), there / there.std())  # fans differ, the numbers drawn do not


def test_gates_get_the_same_values_in_whatever_order_they_are_stored():
    torch = made(layer("rnn.weight_ih_l0", zeros(32, 6), kind="lstm", parts=LSTM), "xavier")
    onnx = made(layer("rnn.weight_ih_l0", zeros(1, 32, 6), kind="lstm", axes="soi", parts=ONNX_LSTM), "xavier")[0]
    mine = dict(zip(LSTM, np.split(torch, 4), strict=True))
    theirs = dict(zip(ONNX_LSTM, np.split(onnx, 4), strict=True))
    for gate in LSTM:
        assert np.allclose(mine[gate], theirs[gate], rtol=1e-14), gate


@pytest.mark.parametrize("scheme", ["he", "orthogonal"])
def test_stacked_operators_are_drawn_one_by_one(scheme):
    out_first = made(layer("experts.w1", zeros(3, 12, 8), axes="soi"), scheme)
    in_first = made(layer("experts.w1", zeros(3, 8, 12), axes="sio"), scheme)
    assert (out_first == in_first.transpose(0, 2, 1)).all()
    assert not (out_first[0] == out_first[1]).any()
    more = made(layer("experts.w1", zeros(5, 12, 8), axes="soi"), scheme)
    assert (more[:3] == out_first).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": (30, 20), "axes": "oi"}, {"shape": (4, 6, 3), "axes": "iok", "kind": "conv_transpose", "groups": 2},
        {"shape": (8, 2, 3), "axes": "oik", "kind": "conv", "groups": 4},
        {"shape": (2, 12, 5), "axes": "soi", "parts": ONNX_LSTM},
        {"shape": (6, 4, 5), "axes": "ioo"}, {"shape": (4, 5, 6), "axes": "iio"}, {"shape": (7, 3, 4), "axes": "oik"},
    ],
    ids=str,
)  # fmt: skip
def test_there_and_back(fields):
    shape = fields.pop("shape")
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    one = layer("w", values, **fields)
    form = form_of(one, one.weight)
    there = form.canonical(values)
    assert there.shape == (form.stack, *form.operator)
    assert (form.stored(there) == values).all()
    rows = stats.measure(one.weight, one.axes, groups=one.groups, parts=max(1, len(one.parts))).rows
    if one.parts in ((), LSTM):
        assert np.allclose(np.square(there).reshape(rows.square.size, -1).sum(1), rows.square)  # units as rules count


# ---- parts, units, padding


def test_a_part_may_have_a_scheme_of_its_own():
    bias = tensor("rnn.bias_ih_l0", zeros(32))
    one = layer("rnn.weight_ih_l0", zeros(32, 6), kind="lstm", parts=ONNX_LSTM, bias=bias)
    b = draw(recipe(one, "zeros", of=bias, by_part={"forget": "constant:value=1"}), 0)
    assert (b == np.repeat([0, 0, 1, 0], 8)).all()
    w = draw(recipe(one, "xavier", by_part={"cell": "orthogonal"}), 0)
    plain = draw(recipe(one, "xavier"), 0)
    assert (w[:24] == plain[:24]).all()
    assert np.allclose(w[24:].T @ w[24:], np.eye(6))
    with pytest.raises(UsageError, match="no part 'gate'"):
        draw(recipe(one, by_part={"gate": "zeros"}), 0)


def test_only_the_units_named_are_drawn():
    old = np.full((12, 5), 7, np.float32)
    one = layer("fc", old)
    w = draw(recipe(one, units=(3, 5)), 0)
    assert (np.delete(w, (3, 5), 0) == 7).all()
    assert (w[[3, 5]] == made(one)[[3, 5]]).all()
    turned = layer("fc", old.T.copy(), axes="io")
    assert (draw(recipe(turned, units=(3, 5)), 0) == w.T).all()
    with pytest.raises(UsageError, match="12 units"):
        draw(recipe(one, units=(12,)), 0)


def test_units_of_a_transposed_grouped_convolution_are_counted_as_the_measures_count_them():
    values = np.ones((4, 3, 2), np.float32)
    one = layer("c", values, kind="conv_transpose", axes="iok", groups=2)
    w = draw(recipe(one, "zeros", units=(4,)), 0)  # the second unit of the second group
    assert (w[2:, 1] == 0).all()
    assert w.sum() == values.size - 4


def test_padding_rows_stay_zero():
    table = layer("embed", zeros(10, 4), kind="embedding", axes="io", role=Role.EMBEDDING, padding=3)
    w = made(table, "normal:std=1")
    assert (w[3] == 0).all()
    assert (np.delete(w, 3, 0) != 0).all()


def test_the_only_zero_row_of_a_table_is_taken_for_padding():
    values = np.ones((10, 4), np.float32)
    values[2] = 0
    fields = {"kind": "embedding", "axes": "io", "role": Role.EMBEDDING}
    w = made(layer("embed", values, **fields), "normal:std=1")
    assert np.flatnonzero((w == 0).all(1)).tolist() == [2]
    values[5] = 0  # two: dead rows
    assert (made(layer("embed", values, **fields), "normal:std=1") != 0).all()
    assert (made(layer("fc", np.eye(4, 6, dtype=np.float32)), "normal:std=1") != 0).all()


# ---- orthogonal


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": (64, 64)}, {"shape": (300, 40)}, {"shape": (40, 300)}, {"shape": (1, 50)}, {"shape": (50, 1)},
        {"shape": (1, 1)}, {"shape": (1000, 3)}, {"shape": (520, 512)}, {"shape": (50, 64), "axes": "io"},
        {"shape": (64, 16, 3, 3), "axes": "oikk", "kind": "conv", "groups": 4},
        {"shape": (64, 1, 3, 3), "axes": "oikk", "kind": "conv", "groups": 64},
        {"shape": (64, 16, 4, 4), "axes": "iokk", "kind": "conv_transpose", "groups": 4},
        {"shape": (160, 40), "parts": LSTM, "kind": "lstm"}, {"shape": (1, 160, 40), "axes": "soi", "parts": ONNX_LSTM},
        {"shape": (6, 32, 16), "axes": "sio"}, {"shape": (96, 32), "parts": ("query", "key", "value")},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("scheme, gain", [("orthogonal:gain=1.5", 1.5), ("orthonormal", 1.0), ("lsuv", 1.0)])
def test_singular_values_equal_the_gain_per_gate_group_and_operator(fields, scheme, gain):
    fields = dict(fields)
    one = layer("w", zeros(*fields.pop("shape")), **fields)
    w = made(one, scheme).astype(np.float32)
    form = form_of(one, one.weight)
    blocks = form.canonical(w).reshape(form.stack * form.blocks, form.out // form.blocks, -1)
    values = np.linalg.svd(blocks.astype(np.float64), compute_uv=False)
    assert np.abs(values - gain).max() < 1e-5
    if blocks.shape[1] * blocks.shape[2] > 16:
        assert not (blocks[0] == blocks[-1]).any() or len(blocks) == 1


# ---- vectors and torch's defaults


def test_vectors_take_what_needs_no_fans():
    bias = tensor("fc.bias", zeros(30))
    fc = layer("fc", zeros(30, 20), bias=bias)
    assert (made(fc, "ones", of=bias) == 1).all()
    assert 0.005 < made(fc, "normal:std=0.01", of=bias).std() < 0.02
    assert not (made(fc, "normal:std=0.01", of=bias) == made(fc, "normal:std=0.01")[:, 0]).any()
    for scheme in ("he", "orthogonal", "lsuv"):
        with pytest.raises(UsageError, match=r"fc\.bias: .* needs a matrix"):
            made(fc, scheme, of=bias)
    with pytest.raises(UsageError, match="auto"):
        made(fc, "auto")


def test_a_scheme_that_does_not_fit_says_where_and_why():
    conv = layer("c", zeros(4, 8, 3, 3), kind="conv", axes="oikk")
    with pytest.raises(UsageError, match=r"c\.weight: delta-orthogonal needs at least as many output .* not 4 for 8"):
        made(conv, "delta-orthogonal")
    with pytest.raises(UsageError, match=r"odd kernels, not \[2, 2\]"):
        made(layer("c", zeros(8, 8, 2, 2), kind="conv", axes="oikk"), "delta-orthogonal")
    assert made(layer("c", zeros(8, 2, 3, 3), kind="conv", axes="oikk", groups=2), "delta-orthogonal").any()
    with pytest.raises(UsageError, match="needs a matrix"):
        made(layer("v", zeros(5), kind="parameter", axes="o"), "xavier")


TORCH = {
    "Linear(70, 50)": ("linear", "oi", {}),
    "Conv2d(16, 32, 3, groups=4)": ("conv", "oikk", {"groups": 4}),
    "ConvTranspose2d(32, 16, 4, stride=2, groups=2)": ("conv_transpose", "iokk", {"groups": 2, "stride": (2, 2)}),
    "Bilinear(9, 11, 40)": ("bilinear", "oik", {}),
    "Embedding(60, 40)": ("embedding", "io", {"role": Role.EMBEDDING}),
    "LayerNorm(50)": ("norm", "o", {"role": Role.NORM}),
    "PReLU()": ("prelu", "o", {}),
    "GRUCell(10, 40)": ("gru", "oi", {"parts": ("reset", "update", "new")}),
    "MultiheadAttention(48, 4)": ("attention", "oi", {"parts": ("query", "key", "value")}),
}


@pytest.mark.parametrize("call", TORCH)
def test_torch_default_draws_what_torch_draws(call):
    torch = pytest.importorskip("torch")
    kind, axes, fields = TORCH[call]
    torch.manual_seed(0)
    theirs = dict(eval(f"torch.nn.{call}", {"torch": torch}).named_parameters())
    for name, parameter in list(theirs.items())[:4]:
        if name in ("weight_hh", "out_proj.weight", "out_proj.bias"):
            continue
        own = f"m.{name}" if name not in ("weight", "bias") else "m"
        values = parameter.detach().numpy()
        vector = "bias" in name
        main = next(p for n, p in theirs.items() if "weight" in n).detach().numpy()
        one = layer(own.replace("bias", "weight"), main, kind, axes, **fields)
        one = layer(one.name, main, kind, axes, bias=tensor(f"m.{name}", values), **fields) if vector else one
        mine = made(one, "torch-default", of=one.bias if vector else None)
        assert mine.shape == values.shape
        if values.std() == 0:
            assert (mine == values).all(), name
        else:
            n, reach = values.size, 1.0 if kind == "embedding" else 40 / values.size
            assert np.abs(mine).max() == pytest.approx(np.abs(values).max(), rel=reach), name
            assert mine.std() == pytest.approx(values.std(), rel=5 / np.sqrt(n)), name


def test_torch_has_no_default_for_a_bare_parameter():
    with pytest.raises(UsageError, match="no default"):
        made(layer("pos", zeros(5, 4), kind="parameter", axes="oi"), "torch-default")


# ---- names


@pytest.mark.parametrize(
    "of, stored, bias, weight_name, bias_name",
    [
        ("fc", "fc.weight", "fc.bias", "fc.weight", "fc.bias"),
        ("fc", "onnx::MatMul_45", "fc.bias", "fc.weight", "fc.bias"),
        ("fc", "val_3", "val_4", "fc.weight", "fc.bias"),
        ("rnn.weight_ih_l0", "onnx::LSTM_7", "onnx::LSTM_9", "rnn.weight_ih_l0", "rnn.bias_ih_l0"),
        ("a.in_proj_weight", "val_1", "a.in_proj_bias", "a.in_proj_weight", "a.in_proj_bias"),
        ("a.in_proj", "onnx::MatMul_1", "a.in_proj_bias", "a.in_proj_weight", "a.in_proj_bias"),
        ("fc_1", "fc.weight", "fc.bias", "fc.weight", "fc.bias"),
        ("module.fc", "module.fc.weight", "module.fc.bias", "fc.weight", "fc.bias"),
        ("module._orig_mod.fc", "module._orig_mod.fc.weight", "module._orig_mod.fc.bias", "fc.weight", "fc.bias"),
        ("enc._orig_mod.fc", "enc._orig_mod.fc.weight", "enc._orig_mod.fc.bias", "enc.fc.weight", "enc.fc.bias"),
        ("net.module.fc", "net.module.fc.weight", "net.module.fc.bias", "net.module.fc.weight", "net.module.fc.bias"),
    ],
)
def test_names_are_those_of_the_model(of, stored, bias, weight_name, bias_name):
    weight = tensor(stored, zeros(12, 3))
    one = layer(of, zeros(12, 3), weight=weight, bias=tensor(bias, zeros(12)))
    assert original_name(one, one.weight) == weight_name
    assert original_name(one, one.bias) == bias_name


# ---- weights made of other tensors


def wrapped(kind):
    """A convolution under a reparametrisation of torch's, its layer as it is read, and the module."""
    torch = pytest.importorskip("torch")
    from initaudit.layers.groups import by_name
    from initaudit.layers.shapes import read

    torch.manual_seed(0)
    conv = torch.nn.Conv2d(6, 8, 3)
    module = getattr(torch.nn.utils.parametrizations, kind)(conv)
    (group,) = by_name(tensor(f"c.{n}", t.numpy().copy()) for n, t in module.state_dict().items())
    return module, read(group)[0][0]


def written(module, one, scheme, **fields):
    """Load the draws of a weight and of its companions into the module; return its effective weight."""
    import torch

    stored = tensor(one.weight.name, dict(module.state_dict())[one.weight.name[2:]].numpy())
    first = Recipe(measured(one), stored, scheme, "", **fields)
    state = dict(module.state_dict())
    for each in (first, *companions(first)):
        state[each.tensor.name[2:]] = torch.tensor(draw(each, 0).astype(np.float32))
    module.load_state_dict(state)
    return module.eval().weight.detach().numpy()


def test_the_effective_weight_under_weight_norm_is_the_draw():
    module, one = wrapped("weight_norm")
    before = module.weight.detach().numpy().copy()
    plain = made(layer("c", zeros(8, 6, 3, 3), kind="conv", axes="oikk"))
    assert np.allclose(written(module, one, "he"), plain, atol=1e-6)
    module, one = wrapped("weight_norm")
    some = written(module, one, "he", units=(2,))
    assert np.allclose(some[2], plain[2], atol=1e-6)
    assert np.allclose(np.delete(some, 2, 0), np.delete(before, 2, 0), atol=1e-6)


def test_the_vectors_of_spectral_norm_follow_the_draw():
    module, one = wrapped("spectral_norm")
    w = written(module, one, "he").reshape(8, -1)
    assert np.linalg.svd(w, compute_uv=False)[0] == pytest.approx(1, abs=0.02)
    drawn = made(one, "he").reshape(8, -1)
    assert np.allclose(w / np.linalg.norm(w), drawn / np.linalg.norm(drawn), atol=1e-6)


# ---- the audit knows them again


LAYERS = {
    "linear": {"shape": (256, 192)},
    "conv": {"shape": (64, 32, 3, 3), "kind": "conv", "axes": "oikk"},
    "grouped": {"shape": (64, 8, 3, 3), "kind": "conv", "axes": "oikk", "groups": 4},
    "transposed": {"shape": (64, 32, 4, 4), "kind": "conv_transpose", "axes": "iokk", "stride": (2, 2)},
    "conv1d": {"shape": (192, 256), "axes": "io"},
    "lstm": {"shape": (512, 128), "kind": "lstm", "parts": LSTM, "activation": None},
}
SPELLED = {"constant": "constant:value=0.5", "normal": "normal:std=0.02", "uniform": "uniform:bound=0.05"}


@pytest.mark.parametrize("where", LAYERS)
@pytest.mark.parametrize("row", schemes.ROWS, ids=lambda r: r.name)
def test_the_audit_identifies_what_was_drawn(row, where):
    fields = {**LAYERS[where], **({"activation": "sin"} if row.name.startswith("siren") else {})}
    shape = fields.pop("shape")
    if row.name == "dirac" and len(shape) == 2:
        pytest.skip("for convolutions")
    if row.name == "delta-orthogonal" and (len(shape) == 2 or where == "transposed"):
        pytest.skip("odd kernels, at least as many outputs as inputs")
    one = layer("w", zeros(*shape), **fields)
    text = SPELLED.get(row.name, row.name)
    drawn = layer("w", made(one, text).astype(np.float32), **fields)
    found = laws.identify(drawn, measured(drawn).stats)
    assert found is not None
    assert found.law == ("dirac" if row.name == "identity" and "k" in one.axes else row.law)
    if row.name == "uniform":
        return  # a bound that nobody uses: the law is told, no scheme
    said, params = schemes.parse(found.scheme)
    fans = schemes.fans_of(one)
    wanted = schemes.resolve(text, one, one.weight)
    near = 0.3 if row.name == "sparse" else 0.01  # whole numbers of zeros in the few rows of a group
    assert said.std(fans, **params) == pytest.approx(wanted[0].std(fans, **wanted[1]), rel=near)


def test_lsuv_starts_of_one_shape_share_a_matrix_and_stay_orthonormal():
    """Each is orthonormal by itself, none is another's copy, and the start depends on seed and name alone."""
    first, second = (recipe(layer(name, he(320, 256)), "lsuv") for name in ("a", "b"))
    one, other = draw(first, 0), draw(second, 0)
    for made in (one, other):
        np.testing.assert_allclose(made.T @ made, np.eye(256), atol=1e-9)
    assert np.abs(one @ other.T).max() < 0.5  # no row of one is a row of the other, whatever its sign
    np.testing.assert_array_equal(draw(first, 0), one)
    assert not np.array_equal(draw(first, 1), one)
