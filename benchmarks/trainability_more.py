"""A second set of small networks with good and bad initializations, each rebuilt to the bit from its name.

    python -m benchmarks.trainability_labels --nets benchmarks.trainability_more

It is the test of a verdict whose every number was fitted elsewhere, so it shares neither architectures nor data nor
widths with benchmarks.trainability_nets. A pair is `family/architecture/initialization`, as there; `task(pair)` is what
it is trained on, `example(pair)` a random input of the right kind, as anyone would give one.

An initialization is `SCHEME[+OP@GLOB[=VALUE]...]`: how the weights of dense, convolution, recurrent and attention
layers are drawn (biases to zero; `made` leaves the network as its constructors made it), then what is done to the
parameters whose names match.
"""

from __future__ import annotations

import fnmatch
import math
import zlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks import trainability_more_dense as dense
from benchmarks import trainability_more_images as images
from benchmarks import trainability_more_sequences as sequences
from benchmarks.trainability_labels import Task
from benchmarks.trainability_more_tasks import TASKS
from benchmarks.trainability_nets import Pair

FAMILIES: dict[str, tuple[str, Callable[[str], nn.Module]]] = {
    "dropout": ("teacher", dense.dropout),
    "pyramid": ("bins", dense.pyramid),
    "highway": ("teacher", dense.Highway),
    "gated": ("bins", dense.Gated),
    "scaled-residual": ("spirals", dense.scaled),
    "concat": ("spirals", dense.Concat),
    "tied": ("teacher", dense.Tied),
    "autoencoder": ("images", dense.autoencoder),
    "sine": ("bins", dense.Sine),
    "maxout": ("teacher", dense.Maxout),
    "separable": ("images", images.Separable),
    "bottleneck": ("images", images.bottleneck),
    "densenet": ("gratings", images.DenseNet),
    "unet": ("gratings", images.UNet),
    "excited": ("images", images.excited),
    "mixer": ("gratings", images.Mixer),
    "vit": ("images", images.ViT),
    "llama": ("first", sequences.Llama),
    "gpt": ("periodic", sequences.GPT),
    "encoder": ("majority", sequences.Encoder),
    "stacked": ("recall", sequences.Stacked),
    "bidirectional": ("first", sequences.Bidirectional),
    "tcn": ("waves", sequences.tcn),
    "sets": ("sets", sequences.SetTransformer),
}  # family: what it learns, and how it is made


# ---- initializations


def _fans(w: Tensor) -> tuple[int, int]:
    per = w[0][0].numel() if w.dim() > 2 else 1
    return w.shape[1] * per, w.shape[0] * per


def _draw(w: Tensor, scheme: str) -> None:
    """Fill a weight as a scheme says, in place."""
    fan_in, fan_out = _fans(w)
    word, _, value = scheme.partition("=")
    number = float(value) if value else 1.0
    std = {
        "he": lambda: number * math.sqrt(2 / fan_in),
        "he-out": lambda: math.sqrt(2 / w.shape[0]),  # fan-out for fan-in, and no kernel
        "he-flat": lambda: math.sqrt(2 / w.shape[1]),  # the kernel's size forgotten
        "xavier": lambda: number * math.sqrt(2 / (fan_in + fan_out)),
        "lecun": lambda: math.sqrt(1 / fan_in),
        "normal": lambda: number,
        "variance": lambda: 2 / fan_in,  # given where a standard deviation was asked for
        "root": lambda: (2 / fan_in) ** 0.25,  # the root taken twice
    }
    if word in std:
        w.normal_(0, std[word]())
    elif word == "trunc":
        nn.init.trunc_normal_(w, std=number, a=-2 * number, b=2 * number)
    elif word == "positive":  # uniform, never centred
        w.uniform_(0, math.sqrt(6 / fan_in))
    elif word == "orthogonal":
        nn.init.orthogonal_(w, gain=number)
    elif word == "constant":
        w.fill_(number)
    else:
        raise ValueError(scheme)


LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.RNNBase, nn.MultiheadAttention)
EVERYWHERE = ("normal", "trunc", "constant")  # schemes that know no fan are used on embeddings too


def initialise(net: nn.Module, init: str) -> None:
    """Draw the weights of a network anew and change what the initialization says."""
    scheme, *changes = init.split("+")
    kinds = (*LAYERS, nn.Embedding) if scheme.startswith(EVERYWHERE) else LAYERS
    with torch.no_grad():
        for module in net.modules() if scheme != "made" else ():
            if not isinstance(module, kinds):
                continue
            for name, p in module.named_parameters(recurse=False):
                p.zero_() if "bias" in name else _draw(p, scheme)
            if parametrize.is_parametrized(module, "weight"):
                w = torch.empty_like(module.weight)
                _draw(w, scheme)
                module.weight = w
        for change in changes:
            _change(net, change)


def _change(net: nn.Module, change: str) -> None:
    what, _, value = change.partition("=")
    word, _, glob = what.partition("@")
    number = float(value) if value else 1.0
    meant = [p for name, p in net.named_parameters() if fnmatch.fnmatchcase(name, glob)]
    if not meant:
        raise ValueError(change)
    for p in meant:
        if word == "times":
            p.mul_(number)
        elif word == "fill":
            p.fill_(number)
        elif word == "draw":
            p.normal_(0, number)
        elif word == "abs":
            p.abs_()
        elif word == "same":  # every unit like the first
            p.copy_(p[:1].expand_as(p).clone())
        elif word == "halves":  # the second half of the units like the first
            p[(p.shape[0] + 1) // 2 :] = p[: p.shape[0] // 2].clone()
        else:
            raise ValueError(change)


def build(pair: Pair) -> nn.Module:
    """Return the network of a pair, the same to the bit at every call."""
    torch.manual_seed(zlib.crc32(pair.name.encode()))
    net = FAMILIES[pair.family][1](pair.architecture)
    initialise(net, pair.init)
    return net


def task(pair: Pair) -> Task:
    """Return what a pair is trained on."""
    return TASKS[FAMILIES[pair.family][0]]()


def example(pair: Pair, batch: int = 16) -> Tensor:
    """Return random inputs of the right shape and kind: Gaussian numbers, or ids that there are."""
    x = task(pair).x
    draws = torch.Generator().manual_seed(0)
    if x.is_floating_point():
        return torch.randn(batch, *x.shape[1:], generator=draws)
    return torch.randint(int(x.max()) + 1, (batch, *x.shape[1:]), generator=draws)


# ---- the pairs

_PLAN = """
dropout | prelu-64x8 | he made xavier normal=0.02 root variance positive he+fill@9.weight=0 he+same@9.weight
    he+times@9.weight=0.01
dropout | relu-24x12 | he made orthogonal=1.414 he+fill@*.bias=-2 he=2 he+times@0.weight=100
dropout | gelu-64x16 | he made
pyramid | swish-256x8 | he made he-out xavier variance normal=0.3 he+fill@4.weight=0+fill@8.weight=0
pyramid | relu-256x7 | he made he-out he+abs@6.weight constant=0.05 he+times@12.weight=50 he+halves@4.weight
highway | tanh-64x12 | xavier made normal=1.0 normal=0.001 constant=0.03 xavier+fill@gate*bias=-2
    xavier+fill@gate*bias=8
highway | relu-64x24 | he made he=3 he+fill@gate*bias=-3 he+fill@gate*bias=8
gated | glu-64x6 | he=1.3 made xavier normal=0.02 he=4
gated | swiglu-64x3 | he made xavier root he=3 he+fill@units.1.weight=0
gated | bilinear-64x2 | lecun made he=2.5
scaled-residual | rezero-24x16 | he made he+fill@*scale=1 he+fill@*scale=1+times@*shrink.weight=0.1
    he+fill@*scale=0.1 he+fill@*shrink.weight=0 he=3 he+fill@0.weight=0
scaled-residual | layerscale-64x12 | xavier made trunc=0.02 xavier+fill@*scale=1 xavier+fill@*scale=0
    xavier+fill@*scale=0+fill@*shrink.weight=0 constant=0.02 normal=1
scaled-residual | fixup-48x24 | he made he+times@*grow.weight=0.2+fill@*shrink.weight=0
    he+fill@*grow.weight=0+fill@*shrink.weight=0 he+times@*shrink.weight=0.04
concat | elu-16x12 relu-24x8 | he made he=3 normal=0.001 positive
concat | relu-24x8 | he+fill@top.weight=0 he+same@grow*.weight he+fill@grow*.bias=-5
tied | relu-64x8 tanh-64x16 | he made orthogonal=1 he=2 normal=0.01
tied | relu-inject-64x8 | he=0.3 he=2 he=0.3+fill@again.weight=0
tied | tanh-norm-64x10 | xavier made constant=0.1
autoencoder | relu-128x8 gelu-192x12 | he made xavier normal=0.02 root
autoencoder | tanh-128x8 | xavier made xavier=8 xavier+fill@9.weight=0 xavier+same@9.weight constant=0.02
autoencoder | relu-128x8 | he+fill@9.weight=0
sine | 3-64x4 | made xavier=0.3 normal=1 constant=0.02 made+times@fields.2.weight=30 variance
sine | 30-64x3 | made xavier=0.03 normal=0.3
maxout | plain-48x8 | lecun made he normal=0.02 root positive lecun+fill@pairs.3*weight=0
maxout | weightnorm-48x8 | made lecun normal=0.02 root
separable | hardswish-16x6 | he made he-flat xavier normal=0.02
separable | relu6-bn-16x6 | he made normal=0.001 constant=0.05 he+fill@features.9.weight=0
separable | relu-24x8 | he made he-out
bottleneck | group-32x6 | he made xavier normal=0.01 he+fill@*gn3.weight=0 constant=0.05
bottleneck | none-32x8 | he made he=2 he+fill@*expand.weight=0 he+times@*expand.weight=0.3 he-flat
densenet | bn-8x6 | he made normal=0.001 he=10 he+fill@classifier.weight=0
densenet | none-8x6 | he made he-flat normal=0.01 he=4 positive he+fill@stem.weight=0
unet | relu-12x1 | he made he-flat xavier normal=0.02 he+fill@bottom*.weight=0
unet | relu-12x1 | he+fill@enter.weight=0 positive he+fill@*.bias=-1 he+same@*weight
excited | plain-16x5 residual-16x6 | he made he-flat normal=0.01 he+fill@*excite.bias=-6
excited | residual-16x6 | he=2 he+fill@*conv.weight=0
mixer | norm-32x4 | trunc=0.02 xavier made normal=1 xavier+times@head.weight=50 constant=0.02
mixer | none-32x6 | xavier made xavier+fill@*.2.weight=0 normal=0.3 he=2 trunc=0.02
vit | cls-32x4 | xavier made trunc=0.02 normal=1 xavier+times@*qkv.weight=20 xavier+draw@pos_embed=20
    xavier+fill@*proj.weight=0+fill@*fc2.weight=0 xavier+fill@*qkv.weight=0+fill@*proj.weight=0
llama | swiglu-32x3 | normal=0.02 xavier made normal=0.5 xavier+times@*[qk]_proj.weight=20
    xavier+draw@embed_tokens.weight=20 xavier+draw@embed_tokens.weight=0.001 xavier+fill@*_norm.weight=0
    xavier+fill@norm.weight=0+fill@score.weight=0 constant=0.02
gpt | tied-32x2 | normal=0.02 made normal=0.5 normal=0.02+times@*c_attn.weight=50 normal=0.02+draw@wte.weight=5
gpt | free-32x3 | normal=0.02 normal=0.02+times@lm_head.weight=50 xavier+fill@ln_f.weight=0+fill@lm_head.weight=0
encoder | pre-32x5 | made trunc=0.02 normal=1 xavier+fill@*norm?.weight=0
encoder | post-32x5 | made xavier normal=1 xavier+times@*in_proj_weight=10 constant=0.05
stacked | lstm-48x2 | made normal=1 constant=0.05 made+fill@*bias_ih*=-3
stacked | gru-48x2 | made xavier normal=1
stacked | rnn-48x1 | made orthogonal=1 he=1.5
bidirectional | lstm-48x1 | made normal=3 constant=0.05 made+fill@*weight_hh*=0
bidirectional | gru-48x1 | made normal=0.001
tcn | residual-24x4 | he he-flat he+fill@*conv2.weight=0
tcn | plain-24x6 | he made he-flat he+abs@*conv1.weight he+fill@3.conv1.weight=0
sets | norm-32x2 | xavier normal=1 normal=0.01
sets | none-32x3 | xavier made normal=1 xavier+fill@seeds=0 he=3
"""  # family | architectures | initializations; what is indented goes on


def pairs() -> Iterator[Pair]:
    """Yield every pair, in a fixed order."""
    for row in _PLAN.strip().replace("\n    ", " ").splitlines():
        family, architectures, inits = (cell.split() for cell in row.split("|"))
        for architecture in architectures:
            for init in inits:
                yield Pair(family[0], architecture, init)


def optimizers(pair: Pair) -> tuple[str, ...]:
    """Return the optimizers that a pair is trained with: images and sequences with SGD alone, Adam takes too long."""
    return ("sgd", "adam") if FAMILIES[pair.family][1].__module__ == dense.__name__ else ("sgd",)
