"""The activation table against its own derivatives, closed forms, Monte-Carlo and torch."""

import math

import numpy as np
import pytest

from initaudit import activations
from initaudit import functions as fn
from initaudit.activations import ROWS, Family, find, get, identify, named
from initaudit.errors import UnsupportedError, UsageError
from initaudit.quadrature import expectation

ELEMENTWISE = [row for row in ROWS if row.elementwise]
PLAIN = [row for row in ELEMENTWISE if not row.gated]


def by_name(rows):
    return pytest.mark.parametrize("row", rows, ids=lambda r: r.name)


def test_erf_is_exact():
    x = np.linspace(-7, 7, 20001)
    assert np.max(np.abs(fn.erf(x) - np.array([math.erf(v) for v in x]))) < 5e-16


@by_name(PLAIN)
def test_derivative_is_the_derivative(row):
    x = np.linspace(-5, 5, 1237)
    kinks = np.array(row.kinks(**row.params) or [99.0])
    x = x[np.min(np.abs(x[:, None] - kinks), axis=1) > 1e-3]
    h = 1e-6
    assert np.allclose((row(x + h) - row(x - h)) / (2 * h), row.slope(x), atol=1e-7, rtol=1e-6)


@by_name(PLAIN)
def test_single_precision_stays_single(row):
    x = np.linspace(-3, 3, 11, dtype=np.float32)
    assert row(x).dtype == row.slope(x).dtype == np.float32


@by_name(ELEMENTWISE)
def test_moments_equal_monte_carlo(row):
    rng = np.random.default_rng(7)
    z, u = rng.standard_normal((2, 400_000))
    values = row(z) * (u if row.gated else 1)
    slopes = np.square(row.slope(z))
    if row.gated:
        slopes = (slopes * u * u + np.square(row(z))) / 2
    for sample, exact in ((values, row.mean()), (np.square(values), row.mean_square()), (slopes, row.slope_square())):
        assert abs(sample.mean() - exact) < 4 * sample.std() / math.sqrt(z.size) + 1e-12


@by_name(ELEMENTWISE)
def test_correlation_map_equals_monte_carlo(row):
    rng = np.random.default_rng(8)
    rho = 0.6
    z, e, a, b = rng.standard_normal((4, 200_000))
    v = rho * z + 0.8 * e
    product = row(z) * row(v)
    if row.gated:
        product *= a * (rho * a + 0.8 * b)
    assert abs(product.mean() - row.correlation(rho)) < 4 * product.std() / math.sqrt(z.size)
    assert row.correlation(1.0) == pytest.approx(row.mean_square(), rel=1e-9)


@pytest.mark.parametrize("mean, q", [(0.0, 1e-4), (0.0, 1.0), (0.0, 50.0), (0.7, 2.0), (-1.0, 0.5)])
def test_moments_at_other_scales_equal_monte_carlo(mean, q):
    z = mean + math.sqrt(q) * np.random.default_rng(9).standard_normal(300_000)
    for name in ("relu", "gelu", "tanh", "hardtanh", "selu", "sin", "softshrink"):
        row = get(name)
        for sample, exact in (
            (np.square(row(z)), row.mean_square(q, mean)),
            (np.square(row.slope(z)), row.slope_square(q, mean)),
        ):
            assert abs(sample.mean() - exact) < 4.5 * sample.std() / math.sqrt(z.size) + 1e-12


def test_closed_forms_are_met_to_rounding():
    relu, sigmoid, sin = get("relu"), get("sigmoid"), get("sin")
    assert relu.mean_square() == pytest.approx(0.5, abs=1e-13)
    assert relu.mean() == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-13)
    assert get("relu2").mean_square() == pytest.approx(1.5, abs=1e-12)
    assert get("selu").mean_square() == pytest.approx(1.0, abs=1e-12)
    assert get("exp").mean_square(1.5) == pytest.approx(math.exp(3.0), rel=1e-10)
    assert get("laplace").bind(mu=0, sigma=1).mean_square() == pytest.approx(1 / 3, abs=1e-12)
    assert sigmoid.mean(9.0) == pytest.approx(0.5, abs=1e-12)
    for q in (0.01, 1.0, 30.0):
        assert sin.mean_square(q) == pytest.approx((1 - math.exp(-2 * q)) / 2, abs=1e-10)
        assert sin.bind(omega=30.0).mean_square(q) == pytest.approx((1 - math.exp(-1800 * q)) / 2, abs=1e-9)
    for rho in (-0.7, 0.01, 0.5, 0.999):  # Cho & Saul 2009, arc-cosine kernel of order 1
        exact = (math.sqrt(1 - rho**2) + rho * (math.pi - math.acos(rho))) / (2 * math.pi)
        assert relu.correlation(rho) == pytest.approx(exact, abs=1e-10)


def test_a_missing_kink_would_be_seen():
    def step(z):
        return (z > 0.123).astype(float)

    exact = 0.5 * math.erfc(0.123 / math.sqrt(2))
    assert expectation(step, kinks=(0.123,)) == pytest.approx(exact, abs=1e-12)
    assert abs(expectation(step) - exact) > 1e-6


def test_gains_equal_torch_where_torch_is_exact():
    calculate_gain = pytest.importorskip("torch").nn.init.calculate_gain
    assert get("relu").forward_gain == pytest.approx(calculate_gain("relu"), rel=1e-12)
    assert get("identity").forward_gain == pytest.approx(calculate_gain("linear"), rel=1e-12)
    for slope in (0.01, 0.2, 0.5):
        row = get(f"leaky_relu:negative_slope={slope}")
        assert row.forward_gain == pytest.approx(calculate_gain("leaky_relu", slope), rel=1e-12)
        assert row.backward_gain == pytest.approx(row.forward_gain, rel=1e-12)
    assert get("tanh").forward_gain != pytest.approx(calculate_gain("tanh"), rel=0.02)  # 5/3 is a convention


@by_name(ROWS)
def test_every_spelling_finds_its_row(row):
    for name in (row.name, row.name.upper(), row.name.replace("_", ""), row.name.replace("_", "-"), *row.aliases):
        assert find(name) is row, name


@pytest.mark.parametrize(
    "name, expected",
    [
        ("torch.nn.modules.activation.LeakyReLU", "leaky_relu"), ("NewGELUActivation", "gelu"), ("gelu_new", "gelu"),
        ("gelu_pytorch_tanh", "gelu"), ("SiLUActivation", "silu"), ("swish", "silu"),
        ("QuickGELUActivation", "quick_gelu"),
        ("ClippedGELUActivation", "gelu"), ("HardSwish", "hardswish"), ("HardSwishJitMe", "hardswish"),
        ("ReLUSquaredActivation", "relu2"), ("ThresholdedRelu", "threshold"), ("LogSoftmax", "log_softmax"),
        ("PRelu", "prelu"), ("Hardsigmoid", "hardsigmoid"), ("MishActivation", "mish"), ("linear", "identity"),
        ("gated-gelu", "geglu"), ("Identity", "identity"),
    ],
)  # fmt: skip
def test_names_of_other_libraries(name, expected):
    assert find(name).name == expected


def test_unknown_names_and_parameters_are_refused():
    assert find("MultiheadAttention") is None
    assert find("") is None
    with pytest.raises(UsageError, match="there are identity, relu"):
        get("rellu")
    with pytest.raises(UsageError, match="no parameter slope; it has negative_slope"):
        find("leaky_relu:slope=0.2")
    with pytest.raises(UsageError, match="is not name=number"):
        find("leaky_relu:negative_slope=steep")
    with pytest.raises(UnsupportedError, match="not a function of one number"):
        get("softmax").mean_square()


def test_named_is_canonical():
    assert named("LeakyReLU") == "leaky_relu"
    assert named("LeakyReLU:negative_slope=0.2") == "leaky_relu:negative_slope=0.2"
    assert find(named("LeakyReLU:negative_slope=0.2")).params["negative_slope"] == 0.2


@by_name([row for row in PLAIN if row.name not in ("identity", "celu", "prelu", "rrelu")])
def test_every_row_is_identified_by_its_effect(row):
    assert identify(row) == (row.name, {})
    wobble = np.random.default_rng(0).uniform(-4e-4, 4e-4, 10_000)
    assert identify(lambda x: row(x) + wobble[: x.size]) == (row.name, {})


@pytest.mark.parametrize(
    "f, expected",
    [
        (lambda x: 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))), ("gelu", {})),
        (lambda x: np.where(x > 0, x, 0.2 * x), ("leaky_relu", {"negative_slope": 0.2})),
        (lambda x: np.sqrt(2) * np.maximum(x, 0), ("relu", {"scale": 1.41421})),
        (lambda x: np.sqrt(2) * np.maximum(x, 0.2 * x), ("leaky_relu", {"negative_slope": 0.2, "scale": 1.41421})),
        (lambda x: np.clip(0.2 * x + 0.5, 0, 1), ("hardsigmoid", {"alpha": 0.2})),
        (lambda x: np.clip(x, 0, 20), ("hardtanh", {"min_val": 0.0, "max_val": 20.0})),
        (lambda x: np.clip(x, 0, 6), ("relu6", {})),
        (lambda x: np.minimum(x, 0), ("relu", {"mirrored": 1.0, "scale": -1.0})),
        (lambda x: np.maximum(-x, 0), ("relu", {"mirrored": 1.0})),
        (lambda x: np.minimum(x, 2), None),
        (lambda x: np.maximum(x, -5), None),
        (lambda x: x * np.clip(x + 3, 0, 6) / 6, ("hardswish", {})),
        (lambda x: x / (1 + np.exp(-2.5 * x)), ("silu", {"beta": 2.5})),
        (lambda x: x / (1 + np.exp(-1.702 * x)), ("quick_gelu", {})),
        (lambda x: 1.79 * fn.silu(x, 1.0), ("silu", {"scale": 1.79})),
        (lambda x: 0.5 * np.expm1(np.minimum(x, 0)) + np.maximum(x, 0), ("elu", {"alpha": 0.5})),
        (lambda x: np.maximum(x, 0) ** 2, ("relu2", {})),
        (lambda x: x, None),
        (lambda x: -3 * x, None),
        (lambda x: x + 1, None),
        (lambda x: 0 * x, None),
        (lambda x: x * x, None),
        (np.abs, None),
        (np.log, None),
        (lambda x: np.maximum(x, 0) + 1, None),
        (lambda x: x[:3], None),
    ],
)
def test_functions_are_identified_with_their_parameters(f, expected):
    assert identify(f) == expected


def test_a_near_miss_is_not_identified():
    assert identify(lambda x: fn.gelu(x) + 0.01 * np.sin(3 * x)) is None
    assert identify(lambda x: np.tanh(1.05 * x)) is None


def test_families_choose_the_initializer():
    assert get("gelu").family is Family.RECTIFIER
    assert get("tanh").family is Family.SATURATING
    assert get("selu").family is Family.SELF_NORMALISING
    assert get("identity").family is Family.LINEAR


def test_the_listing_has_a_line_per_row():
    assert len(activations.listing()) == len(ROWS) + 1
