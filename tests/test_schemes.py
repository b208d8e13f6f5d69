"""The scheme table against torch.nn.init, its own samples and Monte-Carlo in both directions."""

import math

import numpy as np
import pytest

from initaudit import activations, schemes
from initaudit.draws import truncation
from initaudit.errors import UsageError
from initaudit.schemes import METHODS, ROWS, Fans, expect, parse
from initaudit.types import Evidence, Role
from tests.build import layer

RANDOM = [row for row in ROWS if row.law in ("normal", "uniform", "truncated")]
GAINS = [
    row for row in activations.ROWS if row.elementwise and not row.gated and row.name != "exp"
]  # its tail is heavy


def fans_for(shape, groups=1):
    kernel = math.prod(shape[2:])
    out, fan_in = shape[0] // groups, math.prod(shape[1:])
    return Fans(fan_in, out * kernel, (fan_in, shape[0] * kernel), out, fan_in, kernel)


def by_name(rows):
    return pytest.mark.parametrize("row", rows, ids=lambda r: r.name)


@by_name([*ROWS, *METHODS])
def test_every_spelling_parses_to_its_row(row):
    tail = ":value=0.5" if row.name == "constant" else ""
    for name in (row.name, *row.aliases):
        for text in (name, name.upper(), name.replace("-", "_"), f" {name} ", f"{name}_"):
            assert parse(text + tail)[0] is row, text


@pytest.mark.parametrize(
    "text", ["he:mode=fan_out", "kaiming_uniform:mode=fan_out,gain=1", "normal:std=0.02", "trunc_normal:std=0.01,cut=3",
             "uniform:bound=0.1", "orthogonal:gain=1.414", "constant:value=-1", "sparse:sparsity=0.5,std=0.1",
             "he:activation=gelu", "torch-default:kind=rnn", "normal:std=0.02,branches=24", "glorot-uniform:gain=2",
             "lsuv:tol=0.02,tmax=5", "auto", "lsuv:norms=batch", "he:activation=leaky_relu:negative_slope=0.2"],
)  # fmt: skip
def test_what_is_rendered_is_read_back(text):
    row, params = parse(text)
    for written in (row.render(**params), row.spell(**params)):
        again, same = parse(written)
        assert again is row
        assert row.params(same) == row.params(params)


def test_a_recipe_spells_every_digit():
    row, _ = parse("he")
    assert row.render(gain=1 / 3) == "he:gain=0.3333"
    assert parse(row.spell(gain=1 / 3))[1] == {"gain": 1 / 3}
    assert parse("normal")[0].spell(std=2.0) == "normal:std=2"


@pytest.mark.parametrize(
    "text, message",
    [
        ("hee", "there are he, he-uniform"),
        ("he:std=1", "has no parameter 'std'; it has gain, mode"),
        ("zeros:value=1", "it has none"),
        ("he:mode=sideways", "one of fan_in, fan_out, fan_avg"),
        ("he:activation=rellu", "no activation 'rellu'"),
        ("normal:std=big", "finite number"),
        ("normal:std=nan", "finite number"),
        ("normal:std=-1", "out of range"),
        ("sparse:sparsity=2", "out of range"),
        ("constant", "needs value="),
        ("normal:std", "is not name=value"),
        ("", "no scheme"),
        ("auto:tol=1", "it has none"),
        ("lsuv:tol=0", "out of range"),
        ("lsuv:norms=layer", "one of file, batch"),
        ("truncated:cut=0", "out of range"),
        ("sparse:sparsity=-0.1", "out of range"),
        ("he:branches=0", "out of range"),
    ],
)
def test_bad_schemes_are_refused_with_the_reason(text, message):
    with pytest.raises(UsageError, match=message):
        parse(text)


@by_name(RANDOM)
@pytest.mark.parametrize("shape", [(120, 200), (48, 32, 3, 3)], ids=str)
def test_samples_have_the_variance_of_the_row(row, shape):
    fans = fans_for(shape)
    w = row.sample(shape, fans, np.random.default_rng(1))
    assert w.shape == shape
    kurtosis = np.mean(((w - w.mean()) / w.std()) ** 4)
    assert abs(w.var() / row.variance(fans) - 1) < 4 * math.sqrt((kurtosis - 1) / w.size)
    assert abs(kurtosis - {"normal": 3, "uniform": 1.8, "truncated": 2.3655}[row.law]) < 0.2
    assert abs(w.mean()) < 4 * w.std() / math.sqrt(w.size)


def test_a_sample_depends_on_its_generator_only():
    row, fans = parse("he")[0], fans_for((8, 8))
    first, second = (row.sample((8, 8), fans, np.random.default_rng(3)) for _ in range(2))
    assert (first == second).all()
    assert (first != row.sample((8, 8), fans, np.random.default_rng(4))).any()


def test_truncated_normals_have_no_atoms_and_give_back_the_variance():
    row, _ = parse("truncated")
    w = row.sample((400, 400), Fans(400, 400), np.random.default_rng(0), std=0.02)
    bound = 2 * 0.02 / truncation(2)[0]
    assert np.abs(w).max() <= bound
    assert (np.abs(w) == np.abs(w).max()).sum() == 1
    assert w.std() == pytest.approx(0.02, rel=0.01)
    assert truncation(2) == pytest.approx((0.8796256610, 2.3655), rel=1e-4)


TORCH = {
    "he": ("kaiming_normal_", {"nonlinearity": "relu"}),
    "he:mode=fan_out": ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
    "he-uniform": ("kaiming_uniform_", {"nonlinearity": "relu"}),
    "lecun": ("kaiming_normal_", {"nonlinearity": "linear"}),
    "xavier": ("xavier_normal_", {}),
    "xavier:gain=2": ("xavier_normal_", {"gain": 2}),
    "xavier-uniform": ("xavier_uniform_", {}),
    "simple-uniform": ("kaiming_uniform_", {"a": math.sqrt(5)}),
    "torch-default": ("kaiming_uniform_", {"a": math.sqrt(5)}),
    "normal:std=0.03": ("normal_", {"std": 0.03}),
}


@pytest.mark.parametrize("text", TORCH)
@pytest.mark.parametrize("shape", [(200, 100), (40, 64, 3, 3), (64, 16, 5)], ids=str)
def test_variances_equal_torch_nn_init(text, shape):
    torch = pytest.importorskip("torch")
    name, options = TORCH[text]
    row, params = parse(text)
    std = row.std(fans_for(shape), **params)
    torch.manual_seed(0)
    w = getattr(torch.nn.init, name)(torch.empty(shape), **options).double().numpy()
    if row.law == "uniform":
        bound = math.sqrt(3) * std
        assert bound * (1 - 30 / w.size) < np.abs(w).max() <= bound * (1 + 1e-6)
    else:
        assert abs(w.std() / std - 1) < 4 * math.sqrt(1 / (2 * w.size))


@pytest.mark.parametrize(
    "make, kind, fans",
    [
        (lambda nn: nn.Linear(70, 50), "linear", Fans(70, 50)),
        (lambda nn: nn.Conv2d(16, 32, 3, groups=4), "conv", Fans(36, 72)),
        (lambda nn: nn.ConvTranspose2d(32, 16, 4, 2), "conv_transpose", Fans(128, 256)),
        (lambda nn: nn.GRU(10, 40), "rnn", Fans(10, 40)),
    ],
)
def test_torch_default_is_what_torch_modules_draw(make, kind, fans):
    nn = pytest.importorskip("torch").nn
    w = next(make(nn).parameters()).detach().numpy()
    bound = math.sqrt(3) * parse("torch-default")[0].std(fans, kind=kind)
    assert bound * (1 - 30 / w.size) < np.abs(w).max() <= bound * (1 + 1e-6)


@by_name([row for row in ROWS if row.name != "delta-orthogonal"])
def test_the_torch_call_does_the_same(row):
    torch = pytest.importorskip("torch")
    shape = (40, 40, 3, 3) if row.law == "dirac" else (64, 48)
    fans = fans_for(shape)
    given = {"value": 0.25} if row.name == "constant" else {}
    torch.manual_seed(0)
    w = torch.full(shape, 7.0)
    exec(row.call("w", fans, **given), {"torch": torch, "w": w})
    ours = row.sample(shape, fans, np.random.default_rng(0), **given)
    assert w.numpy().std() == pytest.approx(ours.std(), rel=0.06, abs=1e-6)
    assert w.numpy().mean() == pytest.approx(ours.mean(), abs=0.06 * float(ours.std()) + 1e-6)
    assert np.abs(w.numpy()).max() == pytest.approx(np.abs(ours).max(), rel=0.35)


@pytest.mark.parametrize("shape, blocks", [((40, 70), 1), ((70, 40), 1), ((32, 8, 3, 3), 1), ((80, 20), 4)], ids=str)
def test_orthogonal_blocks_have_equal_singular_values(shape, blocks):
    w = parse("orthogonal")[0].sample(shape, fans_for(shape, blocks), np.random.default_rng(0), gain=1.5, blocks=blocks)
    for part in np.split(w.reshape(shape[0], -1), blocks):
        assert np.allclose(np.linalg.svd(part, compute_uv=False), 1.5, atol=1e-12)
    assert np.mean(w**2) == pytest.approx(parse("orthogonal")[0].variance(fans_for(shape, blocks), gain=1.5))


def test_huge_orthogonal_matrices_are_orthogonal():
    w = parse("orthogonal")[0].sample((1500, 700), fans_for((1500, 700)), np.random.default_rng(0))
    assert np.abs(w.T @ w - np.eye(700)).max() < 1e-11


def test_orthogonal_draws_are_uniform_over_all_orthogonal_matrices():
    """Haar's law: an entry squared has mean 1/n and variance 2 (n - 1) / (n^2 (n + 2)), and any sign is as likely."""
    n, count = 5, 4000
    w = parse("orthogonal")[0].sample((n * count, n), fans_for((n, n)), np.random.default_rng(1), blocks=count)
    w = w.reshape(count, n, n)
    error = math.sqrt(2 * (n - 1) / (n * n * (n + 2)) / count)
    assert np.abs(np.square(w).mean(0) - 1 / n).max() < 5 * error
    assert np.abs(w.mean(0)).max() < 5 * math.sqrt(1 / n / count)
    assert np.square(w).var(0) == pytest.approx(2 * (n - 1) / (n * n * (n + 2)), rel=0.2)
    fixed = np.trace(w, axis1=1, axis2=2)  # of Haar's law: mean 0, variance 1, and half of the determinants are 1
    assert abs(fixed.mean()) < 5 / math.sqrt(count)
    assert fixed.var() == pytest.approx(1, abs=0.15)
    assert abs((np.linalg.det(w) > 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(count)


def test_orthonormal_is_orthogonal_with_gain_one():
    one = parse("orthonormal")[0].sample((30, 20), fans_for((30, 20)), np.random.default_rng(0))
    other = parse("orthogonal")[0].sample((30, 20), fans_for((30, 20)), np.random.default_rng(0))
    assert (one == other).all()
    with pytest.raises(UsageError, match="it has none"):
        parse("orthonormal:gain=2")


@pytest.mark.parametrize("groups", [1, 2])
def test_delta_orthogonal_keeps_the_norm_of_an_image(groups):
    shape = (12, 6, 3, 3)
    row = parse("delta-orthogonal")[0]
    w = row.sample(shape, fans_for(shape, groups), np.random.default_rng(0), blocks=groups)
    centre = w[:, :, 1, 1]
    for part in np.split(centre, groups):
        assert np.allclose(part.T @ part, np.eye(6))
    assert np.count_nonzero(w) == centre.size
    assert np.mean(w**2) == pytest.approx(row.variance(fans_for(shape, groups)))


@pytest.mark.parametrize(
    "shape, groups, why",
    [
        ((4, 8, 3, 3), 1, "as many output as input channels in every group, not 4 for 8"),
        ((12, 6, 3), 3, "in every group, not 4 for 6"),
        ((8, 8, 2, 2), 1, r"odd kernels, not \[2, 2\]"),
    ],
)
def test_delta_orthogonal_says_what_it_needs(shape, groups, why):
    with pytest.raises(UsageError, match=why):
        parse("delta-orthogonal")[0].sample(shape, fans_for(shape), np.random.default_rng(0), blocks=groups)


def test_dirac_and_identity_pass_their_input_on():
    torch = pytest.importorskip("torch")
    for shape in ((6, 6, 3), (6, 4, 3, 3), (4, 6, 3, 3)):
        ours = parse("dirac")[0].sample(shape, fans_for(shape), np.random.default_rng(0))
        assert (ours == torch.nn.init.dirac_(torch.empty(shape)).numpy()).all()
    grouped = parse("dirac")[0].sample((8, 2, 4), fans_for((8, 2, 4), 4), np.random.default_rng(0), blocks=4)
    assert (grouped == torch.nn.init.dirac_(torch.empty(8, 2, 4), groups=4).numpy()).all()
    assert (parse("eye")[0].sample((5, 7), fans_for((5, 7)), np.random.default_rng(0)) == np.eye(5, 7)).all()


def test_sparse_zeroes_every_column_alike():
    w = parse("sparse")[0].sample((50, 30), fans_for((50, 30)), np.random.default_rng(0), sparsity=0.7, std=0.1)
    assert (np.count_nonzero(w == 0, axis=0) == 35).all()
    assert w[w != 0].std() == pytest.approx(0.1, rel=0.1)


def test_sparse_refuses_to_leave_nothing():
    with pytest.raises(UsageError, match="leaves nothing of 1 units"):
        parse("sparse")[0].sample((8, 5), fans_for((8, 5)), np.random.default_rng(0), blocks=8)


def test_means_are_kept_by_every_law_that_has_one():
    for text in ("normal:mean=3,std=0.1", "truncated:mean=3,std=0.1", "uniform:mean=3,bound=0.1"):
        row, params = parse(text)
        w = row.sample((40, 40), fans_for((40, 40)), np.random.default_rng(0), **params)
        assert w.mean() == pytest.approx(3, abs=0.02), text


@by_name(METHODS)
def test_methods_draw_nothing_themselves(row):
    assert row.law == ""
    with pytest.raises(UsageError, match="no variance of their own"):
        row.sample((4, 4), fans_for((4, 4)), np.random.default_rng(0))


@pytest.mark.parametrize("row", GAINS, ids=lambda r: r.name)
@pytest.mark.parametrize("factor", [1.0, 1.3], ids=["right", "wrong"])
def test_gains_keep_the_signal_forward_and_the_gradient_backward(row, factor):
    """x = f(z), z ~ N(0, 1): W x has variance 1; and W^T g times f'(z) has second moment 1 with the backward gain."""
    rng = np.random.default_rng(5)
    repeats, out, fan_in = 40, 200, 250
    he, fans = parse("he")[0], Fans(fan_in, out)
    ups, downs = [], []
    for _ in range(repeats):
        x = row(rng.standard_normal(fan_in))
        w = he.sample((out, fan_in), fans, rng, gain=row.forward_gain * factor)
        ups.append(np.mean(np.square(w @ x)))
        g, z = rng.standard_normal(fan_in), rng.standard_normal(out)
        back = he.sample((fan_in, out), Fans(out, fan_in), rng, gain=row.backward_gain * factor, mode="fan_out")
        downs.append(np.mean(np.square((g @ back) * row.slope(z))))
    for sample in (np.array(ups), np.array(downs)):
        z = (sample.mean() - 1) / (sample.std() / math.sqrt(repeats))
        assert abs(z) < 4 if factor == 1.0 else z > 4


def test_expectations_follow_the_activation():
    w = np.zeros((30, 50), np.float32)

    def says(activation, **fields):
        e = expect(layer("fc", w, activation=activation, **fields))
        return (e.scheme, e.std)

    xavier = math.sqrt(2 / 80)
    assert says("relu") == ("he", pytest.approx(math.sqrt(2 / 50), rel=1e-15))
    assert says("gelu") == ("he:activation=gelu", pytest.approx(1.53353 / math.sqrt(50), rel=1e-5))
    assert says("swiglu")[0] == "he:activation=swiglu"
    assert says("selu") == ("lecun", pytest.approx(math.sqrt(1 / 50)))
    assert says("tanh") == says("sigmoid") == says("softmax") == says(None) == ("xavier", pytest.approx(xavier))
    assert says(None, activation_evidence=Evidence.ASSUMED) == ("he", pytest.approx(0.2))
    assert says("something_new")[0] == "he"
    scheme, std = says("leaky_relu:negative_slope=0.2")
    row, params = parse(scheme)
    assert row.std(Fans(50, 30), **params) == pytest.approx(std, rel=1e-3) == math.sqrt(2 / 1.04 / 50)


def test_nothing_is_expected_where_the_literature_says_nothing():
    assert expect(layer("n", np.ones(8, np.float32), kind="norm", axes="o", role=Role.NORM)) is None
    assert expect(layer("e", np.zeros((10, 4), np.float32), kind="embedding", axes="io", role=Role.EMBEDDING)) is None
    assert expect(layer("v", np.zeros(5, np.float32), kind="vector", axes="o")) is None


def test_torch_fans_differ_from_the_operators_for_groups():
    depthwise = layer("dw", np.zeros((32, 1, 3, 3), np.float32), kind="conv", axes="oikk", groups=32)
    fans = schemes.fans_of(depthwise)
    assert (fans.fan_in, fans.fan_out, fans.torch) == (9, 9, (9.0, 288.0))
    he = parse("he")[0]
    assert he.std(fans, mode="fan_out", fans="torch") == pytest.approx(math.sqrt(2 / 288))


def test_the_listing_names_every_scheme():
    text = "\n".join(schemes.listing())
    assert all(row.name in text and row.source in text for row in (*ROWS, *METHODS))
