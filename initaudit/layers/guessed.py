"""What probably follows a weight of no known family: the vocabulary and the structure that many networks share.

Nothing here is more than ASSUMED, but that queries, keys and values meet in a dot product.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from initaudit.layers import chains, words
from initaudit.layers.drafts import OPERATORS, sides
from initaudit.layers.families import Matches, Reading, Told, plain
from initaudit.layers.places import paired, place
from initaudit.types import Evidence, Layer, Role

_DOT_PRODUCT = re.compile(
    r"(?:^|[._])(?:q|k|v|qkv|kv|q_proj|k_proj|v_proj|qkv_proj|query|key|value|to_q|to_k|to_v|to_qkv|to_kv|query_key_value"
    r"|q_lin|k_lin|v_lin|c_attn|wq|wk|wv|wqkv|add_[qkv]_proj|query_proj|key_proj|value_proj)$",
    re.IGNORECASE,
)
_FEED_FORWARD = re.compile(
    r"(?:^|[._])(?:mlp|ffn?|feed_?forward|net|mlps?_\w+|ffn_\w+)(?:[._]|$)|linear\d$|fc\d$", re.I
)
_UP = re.compile(r"(?:^|[._])(?:up_proj|wi_1|fc1_x|w3)$")
_SQUEEZE = re.compile(
    r"(?:^|[._])(?:se|se_module|se_block|se_layer|squeeze\w*|excit\w*|attn_last|channel_att\w*|ca|eca)(?:[._]|$)", re.I
)
_TIME = re.compile(r"(?:^|[._])(?:time\w*|t_embed\w*|timestep\w*|temb\w*|noise_level\w*|sigma_\w+)(?:[._]|$)", re.I)
_TIME_PROJECTION = re.compile(r"(?:^|[._])(?:time_emb_proj|emb_layers\.\d+|temb_proj|time_proj)$", re.I)
_TRANSFORM = re.compile(r"(?:^|[._])(?:transform\.dense|vocab_transform|lm_head\.dense|pre_logits\.fc)$")
_POOLER = re.compile(r"(?:^|[._])(?:pooler\.dense|pre_logits)$")
_PATCHES = re.compile(
    r"(?:^|[._])(?:\w*patch\w*|conv_proj|to_patch\w*|cpe\w*|peg|pos_embed\w*|pos_conv)(?:[._]|$)", re.I
)
_REDUCES = re.compile(r"(?:^|[._])(?:\w*downsampl\w*|\w*downsampling\w*|reduction|patch_merg\w*|sr)(?:[._]|$)", re.I)
_SHORTCUT = re.compile(
    r"(?:^|[._])(?:downsample|shortcut|skip\w*|identity|residual|conv_shortcut|nin_shortcut|proj)(?:[._]|$)"
)
_INNER = re.compile(r"\.(?:conv|conv1d|convolution|linear|c|proj\.conv)$")  # of a layer in one class with its norm
_MIXES = re.compile(r"(?:^|[._])(?:attn|attention|mhca|mhsa|token_mixer|talking_head\w*)(?:[._]|$)")
_FEATURES = re.compile(r"(?:^|[._])(?:features?|backbone|conv_layers|convs)\.\d+$")  # whose last layer is activated too
_PICTURE = frozenset({1, 3})
_LINEAR = "-"


class Guesser:
    """Guesses from the vocabulary of names, from numbering, norms and fans."""

    def __init__(self, layers: Sequence[Layer], matches: Matches, told: Told, ordered: bool, usual: str = "") -> None:
        self.matches = matches
        self.told = told
        self.usual = usual  # the one activation that a module tree holds
        self.links = chains.links(layers, ordered)
        operators = [a for a in layers if a.kind in OPERATORS]
        self.convs = sum(a.kind == "conv" and len(a.weight.shape) > 3 for a in operators)
        self.attention = any(_DOT_PRODUCT.search(place(a).path) or a.kind == "attention" for a in operators)
        self.norms: dict[str, list[Layer]] = defaultdict(list)
        self.slopes: dict[str, list[Layer]] = defaultdict(list)
        self.beside: dict[str, list[Layer]] = defaultdict(list)
        for a in layers:
            parent = place(a).path.rpartition(".")[0]
            if a.kind == "norm":
                self.norms[parent].append(a)
            elif a.kind == "prelu":
                self.slopes[parent].append(a)
            elif a.kind in OPERATORS:
                self.beside[parent].append(a)
        self.running = any(t.name.endswith("running_var") for a in layers if a.kind == "norm" for t in a.extra)
        self.numbers = _children(layers)
        self.bottleneck = _bottlenecks(operators, self.norms) if self.convs else {}
        self.separate = any(f == "bottleneck" for f in self.bottleneck.values())

    def read(self, a: Layer) -> Reading | None:
        """Return the likeliest reading, None where nothing but a linear layer is as likely."""
        if a.kind not in ("linear", "conv", "conv_transpose") or a.role in (Role.ADAPTER, Role.ROUTER, Role.EMBEDDING):
            return None
        path = _INNER.sub("", plain(place(a).path))
        if _DOT_PRODUCT.search(path) and not _FEED_FORWARD.search(path.rpartition(".")[0]):
            return Reading(None, Evidence.NAMED, "no activation: a dot product follows, by name")
        for rule in (self._slope, self._squeeze, self._time, self._feed_forward, self._named):
            found = rule(a, path)
            if found is not None:
                return found if found.activation != _LINEAR else None
        if a.kind == "linear":
            return self._linear(a, path)
        return self._conv(a, path)

    def _slope(self, a: Layer, path: str) -> Reading | None:
        """A PReLU has a weight of its own, so it stands in the file behind what it follows."""
        parent, _, leaf = place(a).path.rpartition(".")
        for slope in self.slopes.get(parent, ()):
            at = place(slope).steps[-1]
            if leaf.isdigit() and at.isdigit():
                norm = any(place(n).steps[-1] == str(int(leaf) + 1) for n in self.norms.get(parent, ()))
                if int(at) == int(leaf) + 1 + norm:
                    return Reading("prelu", Evidence.NAMED, f"prelu follows: {slope.name} stands behind it")
            elif re.findall(r"\d+$", at) == re.findall(r"\d+$", leaf) and a.weight.shape[0] in (slope.weight.size, 0):
                return Reading("prelu", Evidence.ASSUMED, f"prelu follows, likely: {slope.name}")
        return None

    def _squeeze(self, a: Layer, path: str) -> Reading | None:
        link = self.links.get(a.weight.name)
        small = a.kind == "conv" and all(n == 1 for n in a.weight.shape[2:])
        leaf = words.leaf(path)
        named = bool(_SQUEEZE.search(path) or words.SQUEEZE_LEAF.search(path))
        if not named and not (small and link is not None and link.squeezes and re.match(r"fc\d$", leaf)):
            return None
        takes, gives = sides(a)
        gate = self.matches.style(path, "gate") or "sigmoid"
        inner = self.matches.style(path, "se") or "relu"
        if not re.search(r"(?:fc\d?|\.\d+)$", path) and not self.matches.style(path, "se"):
            inner = self.matches.style(path, "conv") or ("silu" if self.separate else "relu")
        if gives < takes:
            return _likely(inner, "between the two layers of a squeeze-excite", "relu" if inner != "relu" else "silu")
        if gives >= takes:
            return _likely(gate, "at the end of a squeeze-excite")
        return None

    def _time(self, a: Layer, path: str) -> Reading | None:
        if _TIME_PROJECTION.search(path):
            return _likely("silu", "added to a signal that is normed and activated")
        if not _TIME.search(path) or a.kind != "linear":
            return None
        last = re.search(r"(?:linear_2|\.2|fc2|out_layer|\.3)$", path)
        return _likely("silu", "embedding of the time" + (", whose blocks activate it again" if last else ""))

    def _feed_forward(self, a: Layer, path: str) -> Reading | None:
        if a.kind == "linear" and a.role in (Role.GATE, Role.HEAD, Role.BRANCH_END):
            return Reading(_LINEAR, Evidence.ASSUMED, "")
        first = words.FFN_FIRST.search(path)
        pair = self._first_of_pair(a, path)
        if not first and not pair:
            return None
        parent = path.rpartition(".")[0]
        steps = {words.leaf(place(b).path) for b in self.beside.get(place(a).path.rpartition(".")[0], ())}
        if _UP.search(path) and steps & {"gate_proj", "wi_0", "fc1_g", "w1"}:
            return Reading(_LINEAR, Evidence.ASSUMED, "")
        if any(words.DEPTHWISE & set(words.tokens(s)) for s in self._steps(parent)):
            return Reading(_LINEAR, Evidence.ASSUMED, "")
        if words.leaf(path) == "proj_in":
            return None
        name = self.told("act", path)
        if name:
            sure = Evidence.NAMED if first else Evidence.ASSUMED
            return Reading(name, sure, f"{name} follows: the configuration says so of feed-forward blocks")
        if a.kind == "conv" and not (self.attention or pair):
            return None
        gated = bool(re.search(r"gate|wi_0|fc1_g|(?:^|\.)w1$", path))
        usual = self.usual or self.matches.style(path, "mlp") or ("silu" if gated else "gelu")
        if not (self.attention or gated or pair):
            usual = self.usual or "relu"
        return _likely(usual, "first matrix of a feed-forward block", "relu" if usual != "relu" else "gelu")

    def _first_of_pair(self, a: Layer, path: str) -> bool:
        """Whether its mate beside it leads back to as many units as this one takes, from more than that."""
        parent = place(a).path.rpartition(".")[0]
        mates = [b for b in self.beside.get(parent, ()) if b.kind == a.kind]
        takes, gives = sides(a)
        if not (self.attention or _FEED_FORWARD.search(parent)) or gives <= takes or len(mates) != 2:
            return False
        if a.kind == "conv" and any(n > 1 for n in a.weight.shape[2:]):
            return False
        other = mates[0] if mates[1] is a else mates[1]
        return sides(other) == (gives, takes)

    def _steps(self, parent: str) -> set[str]:
        """First steps below a path that have operators."""
        return self.numbers.steps.get(parent, set())

    def _named(self, a: Layer, path: str) -> Reading | None:
        if a.kind == "linear" and _POOLER.search(path):
            return _likely("tanh", "a pooler, by name")
        if a.kind == "linear" and _TRANSFORM.search(path):
            name = self.told("act", path)
            if name:
                return Reading(name, Evidence.NAMED, f"{name} follows: the configuration says so")
            return _likely("gelu", "the transform before a head, by name")
        return None

    def _linear(self, a: Layer, path: str) -> Reading | None:
        """A matrix in a Sequential, or one of several numbered ones."""
        usual = self.usual or ("gelu" if self.attention and not self.convs else "relu")
        after = self._gap(a)
        link = self.links.get(a.weight.name)
        if a.role is Role.ADAPTER or _PATCHES.search(path):
            return None
        if self.bottleneck.get(a.weight.name) == "expanding":
            return _likely(self.usual or "gelu", "first of two pointwise layers after a depthwise one")
        if after is not None:
            if after is False and self._follows_norm(a) and not (link and link.whole and link.last):
                return _likely(usual, "a norm follows, and then nothing with parameters")
            if after and not (link and link.last):
                return _likely(usual, "something without parameters stands between it and the next one")
            return None
        if link is not None and not link.last and not link.squeezes:
            return _likely(usual, f"its units go on to {link.after}")
        return None

    def _gap(self, a: Layer) -> bool | None:
        """Whether nothing with parameters has the number after it; None if its place does not say.

        The last of a numbered row that has gaps, or norms, is followed by nothing: False.
        """
        here = place(a)
        if not here.steps or not here.steps[-1].isdigit():
            return None
        parent = here.path.rpartition(".")[0]
        numbers = self.numbers.occupied.get(parent, set())
        n = int(here.steps[-1])
        if not numbers or max(numbers) - min(numbers) + 1 == len(numbers) == len(self.beside.get(parent, ())):
            return None  # a list of weights: what lies between them is in the code
        after = n + 1
        if any(place(b).steps[-1] == str(after) for b in self.norms.get(parent, ())):
            after += 1
        if n == max(numbers) or after > max(numbers):
            return False
        return after not in numbers

    def _conv(self, a: Layer, path: str) -> Reading | None:
        role_end = a.role is Role.BRANCH_END
        if a.role is Role.GATE or _PATCHES.search(path):
            return None
        if role_end and self.attention and _FEED_FORWARD.search(path):
            return None
        if self._shares_norm(a, path) or (self.attention and _MIXES.search(path)):
            return None
        kind = self.bottleneck.get(a.weight.name, "")
        if kind in ("bottleneck", "context"):
            return None
        usual = self.usual or self.matches.style(path, "conv") or self.told("act", path)
        if kind == "expanding":
            return _likely(usual or "gelu", "first of two pointwise layers after a depthwise one")
        one_d = len(a.weight.shape) == 3
        if not usual:
            usual = "relu"
        other = "silu" if self.separate else ""
        normed = self._follows_norm(a)
        shortcut = bool(_SHORTCUT.search(path))
        link = self.links.get(a.weight.name)
        after = self._gap(a)
        takes, gives = sides(a)
        if link is not None and link.last and link.whole:
            picture = gives in _PICTURE and a.kind == "conv_transpose"
            return _likely("tanh", "the picture that a generator ends in", "sigmoid") if picture else None
        if a.kind == "conv" and words.leaf(path) == "conv_head":
            return _likely(usual, "the convolution before the classifier, by name")
        if a.role is Role.HEAD and not (normed and re.search(r"conv", words.leaf(path))):
            return None
        if normed:
            if shortcut and (self.separate or not self.running):
                return None
            if _REDUCES.search(path) and not self.running:
                return None
            if self.attention and not self._norm_near(a) and takes in words.PICTURE:
                return None
            return _likely(usual, "a norm follows" if not role_end else "after the addition", other)
        if self.attention and not self.running:
            return None
        if shortcut and self.separate:
            return None
        if after is False and not role_end and (link is None or link.last) and not _FEATURES.search(path):
            return None
        if a.kind == "conv_transpose" and words.UPSAMPLING.search(path):
            return None
        leaky = re.search(r"weight_v|weight_orig|parametrizations", a.weight.name + a.weight.storage) is not None
        if leaky and not self.running and not one_d and not self.usual:
            usual = self.matches.style(path, "conv") or "leaky_relu"
        featured = after is False and bool(_FEATURES.search(path))
        if after or featured or (link is not None and not link.last) or (role_end and self.running):
            return _likely(usual, "more layers follow", other)
        if self.running and a.kind == "conv" and self._norm_near(a):
            return _likely(usual, "norms stand around it", other)
        if a.kind == "conv" and not any(self.norms.values()) and self.convs > 1 and not shortcut:
            return _likely(usual, "a network of convolutions")
        return None

    def _follows_norm(self, a: Layer) -> bool:
        """Whether a norm of as many channels as it gives stands beside it, in the place after it."""
        if a.normed:
            return True
        here = place(a)
        gives = sides(a)[1]
        return any(
            n.weight.shape == (gives,) and paired(here, place(n))
            for n in self.norms.get(here.path.rpartition(".")[0], ())
        )

    def _shares_norm(self, a: Layer, path: str) -> bool:
        """Whether it is the depthwise half of a separable convolution: the norm comes after the pointwise half."""
        parent = place(a).path.rpartition(".")[0]
        beside, norms = self.beside.get(parent, ()), self.norms.get(parent, ())
        if a.groups < 2 or len(beside) != 2 or len(norms) > 1:
            return False
        other = beside[0] if beside[1] is a else beside[1]
        return _pointwise(other) and bool(words.DEPTHWISE & set(re.split(r"[._]", path)) or "conv_dw" in path)

    def _norm_near(self, a: Layer) -> bool:
        path = place(a).path
        for _ in range(2):
            path = path.rpartition(".")[0]
            if any(t.name.endswith("running_var") for n in self.norms.get(path, ()) for t in n.extra):
                return True
        return False


class _Numbers:
    """Which numbers and steps are taken below each path."""

    def __init__(self) -> None:
        self.occupied: dict[str, set[int]] = defaultdict(set)
        self.steps: dict[str, set[str]] = defaultdict(set)


def _children(layers: Sequence[Layer]) -> _Numbers:
    found = _Numbers()
    for a in layers:
        path = place(a).path
        while path:
            path, _, step = path.rpartition(".")
            if step in found.steps[path]:
                break
            found.steps[path].add(step)
            if step.isdigit():
                found.occupied[path].add(int(step))
    return found


def _bottlenecks(operators: Sequence[Layer], norms: Mapping[str, Sequence[Layer]]) -> dict[str, str]:
    """What stands around depthwise convolutions, by name of the weight.

    "bottleneck": the pointwise layer that leads down from a depthwise one is linear (arXiv:1801.04381); "context": the
    depthwise one before a wider pointwise one is (arXiv:2201.03545), which is "expanding"; the next leads back.
    """
    found: dict[str, str] = {}
    below: dict[str, list[Layer]] = defaultdict(list)
    for a in operators:
        path = place(a).path
        for _ in range(3):
            path = path.rpartition(".")[0]
            below[path].append(a)
            if not path:
                break
    for d in operators:
        channels = d.weight.shape[0] if d.weight.shape else 0
        if d.kind != "conv" or d.groups < 2 or d.groups != channels or all(n == 1 for n in d.weight.shape[2:]):
            continue
        path = place(d).path
        for _ in range(3):
            path = path.rpartition(".")[0]
            members = [b for b in below[path] if b is not d and _pointwise(b) and not _SQUEEZE.search(place(b).path)]
            if len(below[path]) > 24:
                break
            after = [b for b in members if sides(b)[0] == channels]
            before = [b for b in members if sides(b)[1] == channels and b not in after]
            if not after:
                continue
            running = any(
                t.name.endswith("running_var") for n in norms.get(place(d).path.rpartition(".")[0], ()) for t in n.extra
            )
            down = [b for b in after if sides(b)[1] < channels]
            wide = [b for b in after if sides(b)[1] > channels]
            if any(_SHORTCUT.search(place(b).path[len(path) :]) for b in members):
                break  # a block that projects its shortcut is activated after the addition
            if before and down:
                found.update((b.weight.name, "bottleneck") for b in down)
            elif wide and not running:
                found[d.weight.name] = "context"
                found.update((b.weight.name, "expanding") for b in wide)
                back = [b for b in members if sides(b)[1] == channels and sides(b)[0] > channels]
                found.update((b.weight.name, "bottleneck") for b in back)
            elif down and len(after) == 1:
                found.update((b.weight.name, "bottleneck") for b in down)
            break
    return found


def _pointwise(a: Layer) -> bool:
    return a.kind == "linear" or (a.kind == "conv" and a.groups == 1 and all(n == 1 for n in a.weight.shape[2:]))


def _likely(name: str, why: str, other: str = "") -> Reading:
    told = f"{name} or {other}" if other and other != name else name
    return Reading(name, Evidence.ASSUMED, f"{told} follows, likely: {why}")
