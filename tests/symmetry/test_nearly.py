import itertools
import math

import numpy as np
import pytest

from initaudit import layers, symmetry
from initaudit.freedom import LayerFreedom
from initaudit.symmetry.close import alike, joined
from initaudit.symmetry.exact import projected
from initaudit.symmetry.labels import chained
from initaudit.symmetry.rounding import coarsest, grain, linked

torch = pytest.importorskip("torch")
nn = torch.nn

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def told(module, *examples):
    from initaudit.audit import live

    model = live(module, examples)
    found, _ = layers.infer(model)
    return symmetry.analyse(model.graph, found).layers


def mlp(dtype, *sizes):
    torch.manual_seed(0)
    parts = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*parts[:-1]).to(dtype)


def stepped(p, count=1):
    """Move each number by up to `count` steps of its dtype."""
    for _ in range(count):
        way = torch.randint(-1, 2, p.shape)
        far = torch.full_like(p, math.inf)
        p = torch.where(way == 0, p, torch.nextafter(p, torch.where(way > 0, far, -far)))
    return p


def copied(net, units, change, layer=0):
    """Make units copies of the first, each number of a copy changed."""
    first, into = net[layer], net[layer + 2]
    one, *others = units
    with torch.no_grad():
        for k in others:
            first.weight[k] = change(first.weight[one].clone())
            first.bias[k] = change(first.bias[one].clone())
            into.weight[:, k] = change(into.weight[:, one].clone())


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_that_are_a_step_off_are_nearly_tied(dtype):
    net = mlp(dtype, 8, 32, 16, 4)
    copied(net, (2, 5, 9), stepped)
    first, second, head = told(net, torch.randn(3, 8, dtype=dtype))
    assert first.width == 32
    assert first.classes == ()
    assert first.nearly == ((2, 5, 9),)
    assert first.nearly_width == 30
    assert second.nearly == head.nearly == ()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_copies_that_are_a_few_steps_off_are_nearly_tied(dtype):
    net = mlp(dtype, 8, 32, 16, 4)
    copied(net, (2, 5), lambda p: stepped(p, 3))
    assert told(net, torch.randn(3, 8, dtype=dtype))[0].nearly == ((2, 5),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_copies_that_are_a_hundredth_off_are_not(dtype):
    net = mlp(dtype, 8, 32, 16, 4)
    copied(net, (2, 5, 9), lambda p: (p.double() * (1 + 0.01 * torch.randn(p.shape))).to(dtype))
    assert all(own.nearly == () for own in told(net, torch.randn(3, 8, dtype=dtype)))


@pytest.mark.parametrize("through", [torch.float16, torch.bfloat16])
def test_copies_that_went_through_another_precision_are_nearly_tied(through):
    net = mlp(torch.float32, 8, 32, 16, 4)
    copied(net, (2, 5), lambda p: p.to(through).float())
    assert told(net, torch.randn(3, 8))[0].nearly == ((2, 5),)


def test_what_is_only_rounded_is_not_tied():
    net = mlp(torch.float32, 8, 32, 16, 4).to(torch.bfloat16).float()
    assert all(own.nearly == () and own.twins == () for own in told(net, torch.randn(3, 8)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_constant_network_a_step_off_is_nearly_one_unit_wide(dtype):
    net = mlp(dtype, 8, 32, 16, 4)
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(0.1)
        for p in (net[0].weight, net[0].bias, net[2].weight, net[2].bias):
            p.copy_(stepped(p))
    first, second, head = told(net, torch.randn(3, 8, dtype=dtype))
    assert (first.nearly_width, second.nearly_width, head.nearly_width) == (1, 1, 4)


def test_sums_count_that_agree_but_for_rounding():
    net = mlp(torch.float32, 8, 32, 16, 4)
    copied(net, (2, 5), lambda p: p)
    copied(net, (3, 7), lambda p: p, layer=2)
    with torch.no_grad():
        for row, sign in ((3, 1), (7, -1)):
            net[2].weight[row, 2] += sign * 0.0123
            net[2].weight[row, 5] -= sign * 0.0123
    first, second, _ = told(net, torch.randn(3, 8))
    assert first.classes == ((2, 5),)
    assert first.nearly == ()
    assert (3, 7) in (*second.classes, *second.nearly)


def test_one_side_is_not_enough():
    net = mlp(torch.float32, 8, 32, 16, 4)
    copied(net, (2, 5), stepped)
    with torch.no_grad():
        net[2].weight[0, 5] += 0.01
    assert told(net, torch.randn(3, 8))[0].nearly == ()


def test_biases_part_units_whose_weights_are_nearly_equal():
    net = mlp(torch.bfloat16, 8, 64, 16, 4)
    with torch.no_grad():
        net[0].weight[:] = stepped(net[0].weight[:1].repeat(64, 1))
        net[2].weight[:] = stepped(net[2].weight[:, :1].repeat(1, 64))
    first = told(net, torch.randn(3, 8, dtype=torch.bfloat16))[0]
    assert first.nearly_width > 16  # biases at random: some of them are neighbours


def test_a_near_set_may_hold_a_class():
    net = mlp(torch.float32, 8, 32, 16, 4)
    copied(net, (2, 5), lambda p: p)
    copied(net, (2, 9), stepped)
    first = told(net, torch.randn(3, 8))[0]
    assert first.classes == ((2, 5),)
    assert first.nearly == ((2, 5, 9),)
    assert first.nearly_width == 30


def test_widths_count_each_unit_once():
    own = LayerFreedom("a", 10, 8, ((0, 1), (4, 5)), nearly=((0, 1, 2),), twins=((0, 1, 2, 3), (6, 7)))
    assert (own.width, own.nearly_width, own.twin_width) == (8, 7, 5)
    assert LayerFreedom("a", 10, 8).twin_width == 8  # the classes not told


def test_channels_of_a_convolution_and_its_norm():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten())
    with torch.no_grad():
        net[1].weight.uniform_(0.5, 1.5)
        for p in (net[0].weight, net[0].bias, net[1].weight, net[1].bias):
            p[7] = stepped(p[3])
        net[3].weight[:, 7] = stepped(net[3].weight[:, 3])
    conv, norm, *_ = told(net, torch.randn(2, 3, 8, 8))
    assert conv.nearly == norm.nearly == ((3, 7),)


# ---- what is drawn at random is not near by chance


def classes(terms, groups=None):
    return chained(np.arange(terms, dtype=np.uint64) % np.uint64(groups or terms), np.uint64(1))


def merged(weight, groups=None):
    labels = np.broadcast_to(classes(weight.shape[2], groups), (1, weight.shape[0], weight.shape[2]))
    exact = projected(weight, labels)
    near = joined(weight, labels, exact, 0.0, coarsest(weight[0]))
    return len(np.unique(exact)) - len(np.unique(near))


def drawn(kind, rng):
    normal = rng.standard_normal
    if kind == "sparse":
        out = np.zeros((512, 64))
        out[np.arange(512), rng.integers(0, 64, 512)] = normal(512)
        return out
    return {
        "normal": lambda: normal((2048, 512)), "short": lambda: normal((2048, 3)), "single": lambda: normal((512, 1)),
        "kernels": lambda: normal((2048, 9)), "near one": lambda: 1 + 0.01 * normal((512, 9)),
        "constants": lambda: np.repeat(0.5 + 0.001 * np.arange(256)[:, None], 32, 1),
        "grid": lambda: np.round(normal((1024, 64)) * 40) / 127, "ternary": lambda: np.sign(normal((1024, 64))),
        "identity": lambda: np.eye(256), "orthogonal": lambda: np.linalg.qr(normal((256, 256)))[0],
        "low rank": lambda: normal((512, 2)) @ normal((2, 64)),
        "waves": lambda: np.sin(np.arange(512)[:, None] / 1e4 ** (np.arange(64) / 64)),
    }[kind]()  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "kind",
    ["normal", "short", "single", "kernels", "near one", "grid", "ternary", "identity", "orthogonal", "low rank",
     "waves", "sparse"],
)  # fmt: skip
def test_rows_that_are_drawn_are_not_near(kind, dtype):
    import ml_dtypes

    weight = drawn(kind, np.random.default_rng(3)).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert merged(weight[None]) == 0


def test_different_constants_are_not_near():
    assert merged(drawn("constants", np.random.default_rng(0)).astype(np.float32)[None]) == 0


def test_few_classes_of_many_units_are_not_near_by_chance():
    weight = np.random.default_rng(0).standard_normal((1, 1024, 512)).astype(np.float32)
    assert merged(weight, 4) == 0
    assert merged(weight, 1) == 0


# ---- parts


def test_steps_are_those_of_the_shortest_dtype_that_numbers_fit():
    values = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    values[1] = values[1].astype(np.float16)
    values[2] = 0.5  # round, whatever it went through
    found = grain(values)
    assert (np.median(found[0]), found[1].min(), found[2].max()) == (2.0**-22, 2.0**-9, 2.0**-22)


def test_numbers_are_joined_within_a_group_only():
    values = np.array([1.0, 1 + 2.0**-23, 1.5, 1.0, -1.0], np.float32)
    groups = np.array([0, 0, 0, 1, 0], np.uint64)
    assert linked(values, groups, 0.0, strict=True)[0].tolist() == [0, 0, 2, 3, 4]


def test_a_chain_of_numbers_counts_only_where_both_ends_are_near():
    values = (1 + 2.0**-23 * np.arange(12)).astype(np.float32)
    groups = np.zeros(12, np.uint64)
    assert linked(values, groups, 0.0, strict=False)[0].tolist() == [0] * 12
    assert linked(values, groups, 0.0, strict=True)[0].tolist() == list(range(12))
    assert linked(values[:2], groups[:2], 0.0, strict=True)[0].tolist() == [0, 0]


def test_a_look_finds_rows_that_are_equal_or_multiples():
    rows = np.random.default_rng(0).standard_normal((64, 40)).astype(np.float32)
    assert alike(rows) == (False, False)
    rows[9] = rows[3]
    assert alike(rows) == (True, False)
    rows[9] = -rows[3]
    assert alike(rows)[1]
    rows[9] = 1.7 * rows[3]
    assert alike(rows)[1]
