"""The table of schemes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initaudit.draws import CUT
from initaudit.schemes import spreads
from initaudit.schemes.row import REQUIRED, Params, Scheme, Variance


def _family(name: str, spread: Variance, defaults: Params, aliases: tuple[str, ...], source: str) -> Iterator[Scheme]:
    """Yield the normal, uniform and truncated rows of a scheme that fixes the variance only."""
    torch = {"he": "kaiming", "xavier": "xavier"}.get(name)
    told = ", mode='{mode}', nonlinearity='{activation}'" if name == "he" else ", gain={gain}"
    for law, ending in (("normal", ""), ("uniform", "-uniform"), ("truncated", "-truncated")):
        code = f"torch.nn.init.{torch}_{law}_(w{told})" if torch and law != "truncated" else ""
        names = tuple(f"{a}{e}" for a in (name, *aliases) for e in ([ending, "-normal"] if not ending else [ending]))
        about = {
            "he": "keeps the second moment through a rectifier: variance gain^2 / fan_in",
            "xavier": "compromise of forward and backward: variance 2 / (fan_in + fan_out)",
            "lecun": "keeps the variance through linear units: variance 1 / fan_in",
        }[name]
        if law == "truncated":
            about += "; cut at 2 standard deviations, the lost variance given back"
        yield Scheme(name + ending, law, about, source, code, spread, defaults, names[1:], fans=True)


_MODES: Params = {"gain": 1.0, "mode": "fan_in", "fans": "operator", "branches": 1.0}
_HE: Params = {**_MODES, "gain": math.sqrt(2), "activation": "relu"}
_XAVIER: Params = {**_MODES, "mode": "fan_avg"}

ROWS: tuple[Scheme, ...] = (
    *_family(
        "he",
        spreads.scaled(math.sqrt(2)),
        _HE,
        ("kaiming", "msra"),
        "He et al. 2015, eq. 10 (forward) and 14 (backward)",
    ),
    *_family("xavier", spreads.scaled(1.0), _XAVIER, ("glorot",), "Glorot & Bengio 2010, eq. 12 and 16"),
    *_family("lecun", spreads.scaled(1.0), _MODES, (), "LeCun et al. 1998, eq. 16; Klambauer et al. 2017 for SELU"),
    Scheme(
        "simple-uniform",
        "uniform",
        "U(-1/sqrt(fan), 1/sqrt(fan)): a third of the variance that linear units need",
        "LeCun et al. 1998 as usually shortened; Glorot & Bengio 2010, eq. 1",
        "torch.nn.init.kaiming_uniform_(w, a=5**0.5)",
        spreads.scaled(math.sqrt(1 / 3)),
        {"gain": math.sqrt(1 / 3), "mode": "fan_in", "fans": "operator", "branches": 1.0},
        ("simple", "uniform-1/sqrt(n)", "1/sqrt(n)"),
        fans=True,
    ),
    Scheme(
        "torch-default",
        "uniform",
        "what torch.nn draws: U(+-1/sqrt(fan_in)) for Linear, Conv and their biases; fan_out for ConvTranspose,"
        " hidden size for RNNs; N(0, 1) for Embedding; Xavier over query, key and value; ones and zeros for norms",
        "torch.nn: reset_parameters of Linear, _ConvNd, RNNBase, Embedding, Bilinear, MultiheadAttention and the norms",
        "torch.nn.init.kaiming_uniform_(w, a=5**0.5)",
        spreads.torch_default,
        {"kind": "linear", "branches": 1.0},
        ("pytorch", "pytorch-default", "torch", "default"),
        fans=True,
    ),
    Scheme(
        "normal",
        "normal",
        "a fixed standard deviation, whatever the layer",
        "Radford et al. 2018 and Devlin et al. 2019 for 0.02; Radford et al. 2019 for the division by sqrt(branches)",
        "torch.nn.init.normal_(w, mean={mean}, std={std})",
        spreads.fixed,
        {"std": 0.02, "mean": 0.0, "branches": 1.0},
        ("gaussian",),
    ),
    Scheme(
        "truncated",
        "truncated",
        "a fixed standard deviation after cutting: what the cut takes is given back",
        "variance of the doubly truncated normal distribution",
        "torch.nn.init.trunc_normal_(w, std={std})",
        spreads.fixed,
        {"std": 0.02, "mean": 0.0, "cut": CUT, "branches": 1.0},
        ("truncated-normal", "trunc-normal", "trunc"),
    ),
    Scheme(
        "uniform",
        "uniform",
        "U(-bound, bound), shifted by the mean",
        "variance bound^2 / 3",
        "torch.nn.init.uniform_(w, -{bound}, {bound})",
        spreads.uniform,
        {"bound": 0.05, "mean": 0.0},
    ),
    Scheme(
        "siren",
        "uniform",
        "U(+-sqrt(6/fan_in)/omega): keeps the law of sin(omega z)",
        "Sitzmann et al. 2020, section 3.2",
        "",
        spreads.siren,
        {"omega": 30.0},
        fans=True,
    ),
    Scheme(
        "siren-first",
        "uniform",
        "U(+-1/fan_in): the first layer of a SIREN",
        "Sitzmann et al. 2020, supplement",
        "",
        spreads.siren_first,
        fans=True,
    ),
    Scheme(
        "orthogonal",
        "orthogonal",
        "all singular values equal to the gain, per gate and per group: QR of a normal matrix, the signs corrected",
        "Saxe et al. 2014; Mezzadri 2007 for the signs",
        "torch.nn.init.orthogonal_(w, gain={gain})",
        spreads.orthogonal,
        {"gain": 1.0},
        fans=True,
    ),
    Scheme(
        "orthonormal",
        "orthogonal",
        "orthogonal with gain 1, as the SVD of a normal matrix gives it (U V'): what LSUV starts with",
        "Mishkin & Matas 2015, algorithm 1; the law is that of orthogonal with gain 1",
        "torch.nn.init.orthogonal_(w)",
        spreads.orthogonal,
        fans=True,
    ),
    Scheme(
        "delta-orthogonal",
        "delta-orthogonal",
        "an orthogonal matrix at the kernel's centre, zero around it: every frequency passes alike; needs odd kernels"
        " and out >= in in every group",
        "Xiao et al. 2018",
        "",
        spreads.delta,
        {"gain": 1.0},
        fans=True,
    ),
    Scheme(
        "dirac",
        "dirac",
        "one 1 at the kernel's centre per filter: the convolution is the identity",
        "Zagoruyko & Komodakis 2017",
        "torch.nn.init.dirac_(w)",
        spreads.delta,
        {"gain": 1.0},
        fans=True,
    ),
    Scheme(
        "identity",
        "identity",
        "the identity matrix times the gain",
        "Le, Jaitly & Hinton 2015",
        "torch.nn.init.eye_(w)",
        spreads.delta,
        {"gain": 1.0},
        ("eye",),
        fans=True,
    ),
    Scheme(
        "zeros",
        "constant",
        "all 0: for biases and branches that start closed",
        "-",
        "torch.nn.init.zeros_(w)",
        spreads.none,
        aliases=("zero",),
    ),
    Scheme(
        "ones",
        "constant",
        "all 1: for the scales of norms",
        "-",
        "torch.nn.init.ones_(w)",
        spreads.none,
        aliases=("one",),
        fixed={"value": 1.0},
    ),
    Scheme(
        "constant",
        "constant",
        "one value everywhere: units of a weight stay equal",
        "-",
        "torch.nn.init.constant_(w, {value})",
        spreads.none,
        {"value": REQUIRED},
        ("const",),
    ),
    Scheme(
        "sparse",
        "sparse",
        "zeros in equal numbers per column, a normal law elsewhere",
        "Martens 2010",
        "torch.nn.init.sparse_(w, sparsity={sparsity}, std={std})",
        spreads.sparse,
        {"sparsity": 0.9, "std": 0.01},
    ),
)

METHODS: tuple[Scheme, ...] = (
    Scheme(
        "auto",
        "",
        "chooses a scheme for each tensor: by kind, activation, role and depth",
        "the schemes that it chooses have theirs",
        "",
        spreads.unknown,
    ),
    Scheme(
        "lsuv",
        "",
        "orthonormal, then scaled layer by layer until a batch comes out with variance 1: |variance - target| < tol",
        "Mishkin & Matas 2015",
        "",
        spreads.unknown,
        {"tol": 0.05, "tmax": 10.0, "target": 1.0, "norms": "file"},
        ("layer-sequential-unit-variance",),
    ),
)
