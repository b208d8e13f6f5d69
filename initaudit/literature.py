"""What papers and libraries would have drawn for a layer: every candidate that a measured law is compared with.

Each candidate is a scheme as `schemes.parse` reads it, the std that it gives this layer, and a cost: how unusual it is,
in nats, so that of two schemes with nearly the same std the usual one is named unless the sample speaks against it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from initaudit import activations, schemes
from initaudit.draws import truncation
from initaudit.schemes import Fans, Scheme, Value
from initaudit.types import Layer, Role

SQRT2 = math.sqrt(2)
THIRD = math.sqrt(1 / 3)
LAWS = ("normal", "uniform", "truncated")
_ENDING = {"normal": "", "uniform": "-uniform", "truncated": "-truncated"}
_CUT2, _CUT3 = truncation(2)[0], truncation(3)[0]

_GAINS: tuple[tuple[float, float], ...] = (
    (math.sqrt(1 / 2), 2.0),  # fairseq's q, k, v; CLIP's fc: (2 d)^-1/2
    (THIRD, 2.0),  # Megatron: sqrt(1 / (3 d))
    (math.sqrt(2 / 5), 2.0),  # Nguyen & Salazar 2019, small init: sqrt(2 / (5 d))
)
_HEADS = (16, 32, 64, 80, 96, 128)  # T5 divides q by sqrt(d_kv) once more
_QUERY = re.compile(r"(^|[._])(q|wq|query|q_proj|to_q)$", re.IGNORECASE)
_IN_BLOCK = re.compile(r"(^|\.)\d+\.[^.]*[A-Za-z]")  # a numbered block with a named member
_FIXED: tuple[tuple[float, float], ...] = (
    (0.02, 0.0),  # BERT, GPT, ViT, DCGAN
    (0.01, 0.5),  # AlexNet, detection heads, torchvision's classifiers
    (0.006, 1.5),  # DeepSeek
    (0.005, 1.5),  # VGG's fully connected layers in Caffe
    (0.05, 1.5),
)
_TINY = (1e-3, 1e-4, 1e-5, 1e-6, 1e-10)  # gates and branch ends that start nearly closed
_FAR = 30.0  # a fixed std further than this from He's, with no norm to cancel it, is nobody's choice


class Candidate(NamedTuple):
    """A scheme with its parameters, and the law that it would give this layer. Hundreds are made per layer."""

    row: Scheme
    params: Mapping[str, Value]
    std: float
    cost: float
    mean: float
    cut: float

    @property
    def law(self) -> str:
        """The family that the scheme draws from."""
        return self.row.law

    @property
    def scheme(self) -> str:
        """How the scheme is written; `schemes.parse` reads it back."""
        return self.row.render(**self.params)


def candidates(layer: Layer, spacing: float, blocks: int = 0) -> Iterator[Candidate]:
    """Yield every known scheme for a layer; stds closer than `spacing` (relative) cannot be told apart.

    `blocks` is how often the layer's block repeats in the model, where that is known.
    """
    fans = schemes.fans_of(layer)
    if layer.kind == "norm" or layer.role is Role.NORM:
        yield _named("normal", 0.0, Fans(1, 1), mean=1.0, std=0.02)  # DCGAN, pix2pix
        yield _named("uniform", 0.5, Fans(1, 1), mean=0.5, bound=0.5)  # torch before 1.2
        return
    yield from _fixed(layer, fans)
    if fans is None or not fans.fan_in > 0 or not fans.fan_out > 0:
        yield from _vectors(layer)
        return
    yield from _by_fans(layer, fans)
    if layer.kind == "embedding" or layer.role is Role.EMBEDDING:
        yield from _embeddings(layer, fans)
    elif layer.role is Role.BRANCH_END or (layer.role is Role.OTHER and _IN_BLOCK.search(layer.name)):
        yield from _residual(layer, fans, spacing, blocks)
    if layer.role is Role.ADAPTER:
        yield _named("normal", 0.5, fans, std=1 / fans.fan_out)  # peft: init_lora_weights="gaussian"
    if layer.activation is not None and layer.activation.startswith("sin"):
        yield _named("siren", 0.0, fans)
        yield _named("siren-first", 0.0, fans)


def _named(name: str, cost: float, fans: Fans, /, **params: Value) -> Candidate:
    return _of(_row(name), cost, fans, **params)


def _of(row: Scheme, cost: float, fans: Fans, /, **params: Value) -> Candidate:
    full = {**row.defaults, **params}  # our own parameters need no checking
    mean, cut = full.get("mean", 0.0), full.get("cut", 2.0)
    assert isinstance(mean, float | int)
    assert isinstance(cut, float | int)
    return Candidate(row, params, math.sqrt(row.spread(fans, full)), cost, mean, cut)


@cache
def _row(name: str) -> Scheme:
    return schemes.parse(name)[0]


def _fixed(layer: Layer, fans: Fans | None) -> Iterator[Candidate]:
    known = list(_FIXED)
    if layer.normed:
        known.append((0.1, 1.5))  # Inception v3 in torchvision
    if layer.role is Role.HEAD:
        known.append((0.001, 1.0))  # Fast R-CNN's box head
    if layer.role in (Role.GATE, Role.BRANCH_END, Role.EMBEDDING, Role.ADAPTER):
        known.extend((std, 1.0) for std in _TINY)
    judged = fans is not None and fans.fan_in > 0 and layer.role in (Role.TRUNK, Role.OTHER) and not layer.normed
    for std, cost in known:
        if judged and fans is not None and not 1 / _FAR < std / math.sqrt(2 / fans.fan_in) < _FAR:
            continue
        anywhere = Fans(1, 1)
        yield _named("normal", cost, anywhere, std=std)
        yield _named("truncated", cost, anywhere, std=std * _CUT2)  # as drawn: the cut takes 12 % of the std
        yield _named("truncated", cost + 0.5, anywhere, std=std)
        yield _named("truncated", cost + 0.5, anywhere, std=std * _CUT3, cut=3.0)


def _by_fans(layer: Layer, fans: Fans) -> Iterator[Candidate]:
    """Yield Xavier, He, LeCun and the libraries' defaults, in every mode, for the operator's and for torch's fans."""
    transposed = layer.kind == "conv_transpose"
    gates = layer.kind in ("lstm", "gru", "rnn")
    yield _named("torch-default", 0.0, fans, kind="conv_transpose" if transposed else "rnn" if gates else "linear")
    yield _named("simple-uniform", 0.5, fans)
    yield _named("simple-uniform", 0.7, fans, mode="fan_out")
    own = activations.find(layer.activation) if layer.activation else None
    for law in LAWS:
        he, xavier, lecun = (_NAMED[name + _ENDING[law]] for name in ("he", "xavier", "lecun"))
        yield _of(he, 0.0, fans)
        yield _of(he, 0.5, fans, mode="fan_out")
        yield _of(he, 2.0, fans, mode="fan_avg")
        yield _of(xavier, 0.0, fans)
        yield _of(lecun, 0.6, fans)
        yield _of(lecun, 1.0, fans, mode="fan_out")
        if own is not None and own.elementwise and own.name not in ("relu", "identity"):
            yield _of(he, 0.7, fans, activation=own.name)
        for gain, cost in (*_GAINS, *_by_activation(layer), *_by_place(layer)):
            yield _of(lecun, cost, fans, gain=gain)
            yield _of(lecun, cost + 0.5, fans, gain=gain, mode="fan_out")
            yield _of(xavier, cost, fans, gain=gain)
        if law == "truncated":  # drawn without giving back what the cut takes
            yield _of(he, 1.0, fans, gain=SQRT2 * _CUT2)
            yield _of(he, 1.5, fans, gain=SQRT2 * _CUT2, mode="fan_out")
            yield _of(lecun, 1.0, fans, gain=_CUT2)
            yield _of(xavier, 1.0, fans, gain=_CUT2)
    yield _named("truncated", 2.0, fans, std=_CUT3 / math.sqrt(fans.fan_in), cut=3.0)  # OLMo's Mitchell init
    if fans.torch is not None and sorted(fans.torch) != sorted((fans.fan_in, fans.fan_out)):
        for name in ("he", "xavier", "lecun", "simple"):
            for law in LAWS if name != "simple" else ("uniform",):
                row = _NAMED[name + _ENDING[law]]
                for mode in ("fan_avg",) if name == "xavier" else ("fan_in", "fan_out"):
                    yield _of(row, 1.0, fans, mode=mode, fans="torch")


def _by_activation(layer: Layer) -> Iterator[tuple[float, float]]:
    """Yield torch.nn.init.calculate_gain's numbers where that activation may follow."""
    for names, gain in ((("tanh",), 5 / 3), (("leaky_relu", "prelu"), math.sqrt(2 / 1.04)), (("selu",), 3 / 4)):
        if layer.activation is not None and layer.activation.startswith(names):
            yield gain, 1.0
        elif layer.activation is None and gain > 1:
            yield gain, 2.5


def _by_place(layer: Layer) -> Iterator[tuple[float, float]]:
    """Yield gains that only certain layers of certain models have: elsewhere they would excuse a fault."""
    if _QUERY.search(layer.name):
        yield from ((heads**-0.5, 3.0) for heads in _HEADS)
    if "s" in layer.axes or layer.role is Role.ROUTER:
        yield math.sqrt(0.1), 2.0  # Switch Transformer: a tenth of the variance
        yield 0.1, 2.5
    if layer.kind == "conv" and layer.groups > 1:
        yield 2.0, 2.5  # wav2vec 2.0, positional convolution


def _residual(layer: Layer, fans: Fans, spacing: float, blocks: int) -> Iterator[Candidate]:
    """Yield the stds divided by the root of the number of residual branches, as far as they can be told apart.

    BEiT and its kin divide by the branches up to the layer, so the numbers in its name are hints.
    """
    hints = {2 * (int(digits) + 1) for digits in re.findall(r"\d+", layer.name) if len(digits) < 4}
    if blocks > 1:
        hints |= {blocks, 2 * blocks}
    near = {n for n in range(2, 201) if 1 / (2 * n) >= 4 * spacing}
    for branches in sorted(hints | near):
        cost = 2.0 if branches in hints else 2.5 if branches % 2 == 0 else 3.2
        n = float(branches)
        yield _named("normal", cost, fans, std=0.02, branches=n)  # GPT-2
        yield _named("truncated", cost + 0.5, fans, std=0.02 * _CUT2, branches=n)
        yield _named("lecun", cost + 0.5, fans, branches=n)  # CLIP
        yield _named("lecun", cost + 1.0, fans, mode="fan_out", branches=n)
        yield _named("torch-default", cost + 0.5, fans, branches=n)  # Mamba


def _embeddings(layer: Layer, fans: Fans) -> Iterator[Candidate]:
    rows = max(layer.weight.shape, default=1)
    yield _named("normal", 0.0, fans, std=1.0)  # nn.Embedding
    yield _named("truncated", 1.0, fans, std=1.0)
    for bound in (0.1, 0.05, 0.5 / fans.fan_out, 1 / rows, 1.0):
        yield _named("uniform", 1.0, fans, bound=bound)
    yield _named("uniform", 1.0, fans, bound=0.5, mean=0.5)  # torch.rand


def _vectors(layer: Layer) -> Iterator[Candidate]:
    """Yield what class tokens, position tables and queries without fans are drawn with."""
    sizes = {n for n in layer.weight.shape if n > 1}
    anywhere = Fans(1, 1)
    if layer.role is Role.EMBEDDING or layer.kind == "embedding":
        yield _named("normal", 0.0, anywhere, std=1.0)
        yield _named("uniform", 1.0, anywhere, bound=0.5, mean=0.5)
    for n in sizes:
        yield _named("normal", 1.5, anywhere, std=n**-0.5)
        yield _named("truncated", 1.5, anywhere, std=n**-0.5)
        yield _named("uniform", 1.5, anywhere, bound=n**-0.5)


_NAMED = {
    name: schemes.parse(name)[0]
    for name in ("simple-uniform", *(f"{n}{e}" for n in ("he", "xavier", "lecun") for e in _ENDING.values()))
}
