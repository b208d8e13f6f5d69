"""Every value that flows between the stages: frozen, printable, buildable by hand in a test.

    file -> formats.read -> Model -> layers.infer -> Layer... -> stats.measure -> Stats
         -> laws.identify -> Law -> audit.audit -> Audit -> rules -> Finding... -> Report -> reporters

Axis order inside is always (out, in, *kernel); `Layer.axes` says how the stored tensor gets there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np

from initaudit.freedom import Freedom, LayerFreedom, ParameterFreedom

Array = np.ndarray[Any, np.dtype[Any]]


class Severity(IntEnum):
    """How bad a finding is."""

    INFO = 1
    WARNING = 2
    ERROR = 3

    @property
    def label(self) -> str:
        """The lower-case word used in every report."""
        return self.name.lower()


class Evidence(IntEnum):
    """How sure a reading is: traced in a graph, told by names and shapes, or guessed."""

    ASSUMED = 1
    NAMED = 2
    TRACED = 3

    @property
    def label(self) -> str:
        """The lower-case word used in every report."""
        return self.name.lower()


class State(StrEnum):
    """Whether a model still has the weights it was born with."""

    FRESH = "fresh"
    TRAINED = "trained"
    MIXED = "mixed"
    UNKNOWN = "unknown"


class Role(StrEnum):
    """What a weight is for, as far as the verdict on it depends on that."""

    TRUNK = "trunk"  # its output is the signal itself on its way to the next weight: added to, gated or joined
    BRANCH_END = "branch end"  # its output is added to a residual stream
    GATE = "gate"  # LayerScale, ReZero, adaLN modulation, zero conv, squeeze-excite: multiplies a signal
    ADAPTER = "adapter"  # LoRA and other low-rank additions to a base weight
    HEAD = "head"  # nothing weighted comes after it
    EMBEDDING = "embedding"  # token, position, class and prompt embeddings
    NORM = "norm"  # scale of a normalisation layer
    ROUTER = "router"  # chooses experts
    CLOSED_FORM = "closed form"  # reproducible without random numbers: A_log, sin-cos, blur, Dirac, tables
    OTHER = "other"  # none of these is proven


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor whose values are read only when asked for.

    `storage` names the bytes it looks at: two tensors with equal storage, offset, shape and strides are tied.
    A tensor derived from another (transposed, sliced, cast, dequantised) keeps the name of the one in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str  # as torch spells it: float32, bfloat16, float8_e4m3fn, int8, complex64, quint8, ...
    load: Callable[[], Array] = field(repr=False, compare=False)
    storage: str = ""
    offset: int = 0  # elements from the start of the storage
    strides: tuple[int, ...] | None = None  # elements; None: contiguous
    buffer: bool = False  # known to be no trainable parameter
    release: Callable[[], None] = field(default=_nothing, repr=False, compare=False)
    parts: tuple[str, ...] = ()  # names of the tensors that it was worked out from, where there are several

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for extent in self.shape:
            n *= extent
        return n

    @property
    def identity(self) -> tuple[str, int, tuple[int, ...], tuple[int, ...] | None]:
        """Equal for two names of the same values in the same place."""
        return (self.storage or self.name, self.offset, self.shape, self.strides)

    @property
    def is_float(self) -> bool:
        """Whether the values are meant as real or complex numbers, quantised ones included."""
        return self.dtype.startswith(("float", "bfloat", "complex", "qint", "quint"))


@dataclass(frozen=True, slots=True)
class Global:
    """A function or class that a pickle mentions: its dotted name, never the thing itself."""

    name: str


@dataclass(frozen=True, slots=True)
class Module:
    """One nn.Module of a pickled model, as an inert record."""

    path: str  # "layer1.0.conv1"; "" for the root
    cls: str  # "torch.nn.modules.conv.Conv2d"
    attrs: Mapping[str, object]  # plain values only: numbers, strings, tuples of them, Global
    tensors: Mapping[str, str]  # "weight" -> name of the tensor in Model.tensors
    children: tuple[str, ...]  # paths of its submodules, in the order they were registered

    @property
    def kind(self) -> str:
        """The class name without its package."""
        return self.cls.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Ref:
    """A value of the graph, where a Call takes it."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """The torch function behind a node, as it was called: numbers, strings, None, Ref, and tuples of these."""

    target: str  # "conv2d", "Tensor.add_": what the table of torch functions knows it by
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: canonical lower-case name (see ops.py), value names in and out."""

    op: str
    inputs: tuple[str, ...]  # "" where an optional input is absent
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    call: Call | None = None  # where the graph came from torch


@dataclass(frozen=True, slots=True)
class Graph:
    """Operations in execution order over named values, subgraphs and functions inlined."""

    nodes: tuple[Node, ...]
    inputs: Mapping[str, tuple[int | None, ...] | None]  # name -> shape, None where unknown
    outputs: tuple[str, ...]
    constants: Mapping[str, Tensor]  # value name -> its tensor, in the orientation the consumer sees
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Skip:
    """Something that was not judged, and why."""

    name: str
    why: str
    parameter: bool = True  # False: known to be none, so that leaving it out costs no coverage


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where a checkpoint and the model it is meant for differ."""

    what: str  # "missing" in the checkpoint, "unexpected" in it, "shape"
    name: str  # of the parameter or buffer
    wanted: tuple[int, ...] | None = None  # shape in the model
    found: tuple[int, ...] | None = None  # shape in the checkpoint


@dataclass(frozen=True, slots=True)
class Model:
    """What a reader found in a file or folder."""

    path: str
    format: str  # onnx, torch, safetensors, ...
    detail: str  # "opset 17", "zip archive, state_dict", ...
    tensors: tuple[Tensor, ...]
    graph: Graph | None = None
    modules: tuple[Module, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[Skip, ...] = ()
    source: str = ""  # where the graph comes from, if it is not ONNX: traced, torchscript, exported, inferred
    mismatches: tuple[Mismatch, ...] = ()
    other: tuple[Graph, ...] = ()  # where it depends on values, or is not wholly told: what else it may be
    examples: tuple[Tensor, ...] = ()  # what the caller fed a module with, by input of the graph

    @property
    def graph_source(self) -> str:
        """The contract's word for where the order of layers comes from."""
        if self.graph is not None:
            return self.source or "onnx"
        return "module" if self.modules else "none"

    @property
    def graph_evidence(self) -> Evidence:
        """How sure the graph is: where only the numbers in names tell it, it is told by names."""
        return Evidence.NAMED if self.source == "inferred" and not self.modules else Evidence.TRACED

    @property
    def frozen(self) -> frozenset[str]:
        """Names of the parameters that are set not to be trained; none where all are, as in a model only to be run."""
        found: set[str] = set()
        for module in self.modules:
            own = module.attrs.get("parameters.frozen", ())
            if isinstance(own, tuple):
                found.update(module.tensors[key] for key in own if key in module.tensors)
        trained = {t.name for t in self.tensors if t.is_float and not t.buffer}
        return frozenset() if trained <= found else frozenset(found)

    @property
    def open(self) -> bool:
        """Whether the graph is one of several that the names leave open: what holds for one need not hold."""
        return bool(self.other) and self.graph_evidence < Evidence.TRACED


@dataclass(frozen=True, slots=True)
class Layer:
    """One weight tensor and how it is used.

    `axes` labels the axes of `weight` as stored: o output units, i input units, k kernel positions, s separate
    operators stacked in one tensor (experts, directions). Linear is "oi", MatMul and GPT-2's Conv1D "io", Conv2d
    "oikk", ConvTranspose2d "iokk", stacked experts "sio" or "soi", an embedding "io", a norm scale or other vector
    "o", a scalar "". `parts` operators lie side by side along o (LSTM gates, q/k/v).
    """

    name: str
    kind: str
    weight: Tensor
    axes: str
    bias: Tensor | None = None
    extra: tuple[Tensor, ...] = ()  # further tensors of this layer: second bias, running statistics, weight_g
    groups: int = 1
    parts: tuple[str, ...] = ()  # names of the operators along o, empty for one
    stride: tuple[int, ...] = ()
    fan_in: float | None = None
    fan_out: float | None = None
    activation: str | None = None
    role: Role = Role.OTHER
    fan_evidence: Evidence = Evidence.ASSUMED
    activation_evidence: Evidence = Evidence.ASSUMED
    role_evidence: Evidence = Evidence.ASSUMED
    normed: bool | None = None  # a norm takes its output, so its scale cancels; None: not known
    tied: str = ""  # name of the layer that owns this weight
    padding: int | None = None  # row of an embedding that stays zero
    reasons: tuple[str, ...] = ()  # why kind, fans, activation and role were read so
    tags: tuple[str, ...] = ()  # finer than the role: query, key, value, out projection, recurrent, expert, ...
    depth: tuple[int, int] | None = None  # weighted layers up to and with it, on the longest and the shortest path

    @property
    def evidence(self) -> Evidence:
        """The weakest of the readings that the report shows."""
        return min(self.fan_evidence, self.activation_evidence)

    @property
    def units(self) -> int:
        """Number of output units (product of the o axes, times stacked operators)."""
        n = 1
        for label, extent in zip(self.axes, self.weight.shape, strict=True):
            if label in "os":
                n *= extent
        return n * (self.groups if "i" in self.axes and self.axes.find("i") < self.axes.find("o") else 1)


@dataclass(frozen=True, slots=True)
class Units:
    """Measures per unit along one side of a weight: all of shape (units,)."""

    square: Array  # sum of squares of the finite values, float64
    nonzero: Array  # count of non-zero values, int64
    hash: Array  # uint64; equal for units with bit-equal values (0.0 and -0.0 alike)


@dataclass(frozen=True, slots=True)
class Stats:
    """What one pass over a tensor saw. Moments are population moments of the finite values, in float64."""

    count: int
    mean: float
    variance: float
    kurtosis: float  # E[(w - mean)^4] / variance^2; 3 for a normal; nan where variance is 0
    min: float
    max: float
    zeros: int
    nans: int
    infs: int
    subnormals: int  # below the smallest normal number of the stored dtype, and not zero
    positive: int
    exponent_span: float  # binades between the 1 % and 99 % quantile of |w| over the non-zero finite values
    rows: Units  # output units: (stack, group, out) in canonical order
    columns: Units  # input units, likewise
    part_variance: tuple[float, ...]  # one per Layer.parts, or one for the whole
    rank_one: bool  # numerically of rank 1 (only asked where both sides have at least 8 units)
    orthogonality: float  # max |G - g I| / g for the smaller Gram matrix; nan where not computed
    digest: int  # of the values in (out, in, kernel) order
    digest_t: int  # of the same values in (in, out, kernel) order: a transposed twin's digest
    part_orthogonality: float = float("nan")  # orthogonality of the worst part; of the whole where there is one part

    @property
    def std(self) -> float:
        """Standard deviation."""
        return float(np.sqrt(self.variance))

    @property
    def nonfinite(self) -> int:
        """Values that are NaN or infinite."""
        return self.nans + self.infs

    @property
    def constant(self) -> bool:
        """Whether all values are one finite value."""
        return self.count > 0 and self.nonfinite == 0 and self.min == self.max


@dataclass(frozen=True, slots=True)
class Law:
    """Which initializer drew a tensor."""

    scheme: str  # "he", "xavier-uniform", "torch-default", "normal:std=0.02", "dirac", "sparse", ...
    law: str  # normal, uniform, truncated, orthogonal, constant, sparse, dirac, identity, ...


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the literature would have drawn here."""

    scheme: str
    std: float


@dataclass(frozen=True, slots=True)
class Signal:
    """What one small batch does at a layer, measured by the probe or told by theory; None where it is not known.

    Gradients are those of one input: the root mean square over inputs, the way back started with a random unit vector
    on the output.
    """

    forward_variance: float | None = None  # of what it hands on before its activation, across inputs, per unit
    second_moment: float | None = None  # of the same values
    input_correlation: float | None = None  # cosine between what it hands on for two inputs
    dead: float | None = None  # share of units whose activation has no slope for any input
    saturated: float | None = None  # share of units whose activation has hardly any slope
    relative_gradient: float | None = None  # |dL/dW| / |W|; None where W is zero
    gradient: float | None = None  # |dL/dW|
    # With one unit vector for all inputs: |mean over inputs of dL/dW|^2, what learns no difference, less contrast / n,
    # what a batch of n finds of it by chance; and the same with weights over inputs that sum to zero: what tells them
    # apart.
    common: float | None = None
    contrast: float | None = None
    tied: float | None = None  # share of units that are copies of another, in what comes in and in what comes back
    behind_gate: bool = False  # sleeps: with the zero or small parameters before it at work, it gets a gradient
    gate: str = ""  # name of the tensor that it sleeps behind
    gate_gradient: float | None = None  # of the gate as it is, relative to its values when open
    open_forward_variance: float | None = None
    open_relative_gradient: float | None = None


@dataclass(frozen=True, slots=True)
class Attending:
    """What an attention does with its logits before training."""

    name: str
    entropy: float  # of a query's weights, in terms of log n for n keys
    spread: float  # standard deviation of a query's logits


@dataclass(frozen=True, slots=True)
class Head:
    """An output of the model."""

    name: str
    shape: tuple[int, ...]  # of one run
    variance: float  # across inputs, averaged over units and positions
    std: float  # of all its values
    excess_loss: float | None = None  # cross entropy against random classes less log C, where it may hold logits
    open_variance: float | None = None  # with the gates of the model open, where it has any
    open_std: float | None = None
    open_excess_loss: float | None = None


@dataclass(frozen=True, slots=True)
class Signals:
    """What one small batch does in a model, forward and backward: measured, or told by theory."""

    layers: tuple[Signal, ...]  # one per layer asked for, in that order
    attention: tuple[Attending, ...] = ()
    heads: tuple[Head, ...] = ()
    inputs: int = 0  # in the batch
    macs: float = 0.0  # multiplications it was estimated at
    why: str = ""  # why there is nothing to say, or not all; empty where all is well
    by: str = "probe"  # "probe" or "theory"
    unread: tuple[str, ...] = ()  # operations not understood: what they touch is not told
    folded: bool = False  # batch norms are merged into the weights, so that this is not the signal of training


@dataclass(frozen=True, slots=True)
class Symptom:
    """Something that signal or gradient does in the whole graph, and how much it matters."""

    kind: str  # "vanishing-signal": the name of the rule that tells it
    risk: float  # that a net with this symptom alone does not train, by the calibrated fit
    value: float  # the figure that it is told by: a factor, a share, an entropy, ...
    layers: tuple[str, ...] = ()  # names, from the one where it starts to the one where it ends
    factor: float | None = None  # per layer, of the variance or of the squared gradient
    depth: float | None = None  # of weighted layers at which this net would still train
    capped: str = ""  # why it is told as info at most, if it is
    severity: Severity = Severity.INFO  # what that risk amounts to, by the calibrated thresholds


@dataclass(frozen=True, slots=True)
class Risk:
    """That a model does not train, by the calibrated fit over what its signal does."""

    value: float  # 0 to 1
    by: str  # "probe" or "theory"
    symptoms: tuple[Symptom, ...] = ()  # gravest first
    disagreement: str = ""  # where theory and probe differ by more than they should; empty otherwise


@dataclass(frozen=True, slots=True)
class Measured:
    """A layer with everything that was measured of it."""

    layer: Layer
    stats: Stats
    others: Mapping[str, Stats] = field(default_factory=dict)  # bias and extra, by tensor name
    expected: Expectation | None = None
    identified: Law | None = None
    probed: Signal | None = None  # by the probe, where it ran
    predicted: Signal | None = None  # by theory, where there is a graph
    freedom: LayerFreedom | None = None  # how many of its units can ever differ, where there is a graph
    movement: ParameterFreedom | None = None  # of its weight, where it does not move as a whole at the first step

    @property
    def tensors(self) -> tuple[tuple[Tensor, Stats], ...]:
        """The weight, then bias and extra, each with its measures."""
        layer = self.layer
        rest = ((layer.bias,) if layer.bias else ()) + layer.extra
        return ((layer.weight, self.stats), *((t, self.others[t.name]) for t in rest if t.name in self.others))

    @property
    def signal(self) -> Signal | None:
        """What was measured, else what theory says."""
        return self.probed or self.predicted

    @property
    def variance_ratio(self) -> float | None:
        """Variance / expected.std^2."""
        if self.expected is None or not self.expected.std > 0:
            return None
        return self.stats.variance / self.expected.std**2


@dataclass(frozen=True, slots=True)
class Audit:
    """All a rule may look at."""

    model: Model
    measured: tuple[Measured, ...]
    state: State
    state_reasons: tuple[str, ...] = ()
    skipped: tuple[Skip, ...] = ()
    probe: Signals | None = None
    theory: Signals | None = None
    risk: Risk | None = None
    freedom: Freedom | None = None  # None: no graph, or not asked for


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: what, where, how bad, why we are sure, and what to do."""

    rule: str  # "INI101"
    name: str  # "not-finite"
    severity: Severity
    message: str
    layer: str | None = None
    tensor: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""
    capped: Severity | None = None  # what it would have been, had the evidence been better
    also: tuple[str, ...] = ()  # further layers that it is about


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """Everything there is to say about one path; reporters see nothing else."""

    model: Model
    measured: tuple[Measured, ...]
    findings: tuple[Finding, ...]
    skipped: tuple[Skip, ...]
    state: State
    state_reasons: tuple[str, ...]
    parameters: int
    coverage: float
    crashed: bool = False  # a rule failed; exit 2 whatever was found
    given: str = ""  # the path as it was typed; model.path is never absolute
    options: str = ""  # of the command line, quoted: what a repair of the same model needs to be told too
    probe: Signals | None = None
    theory: Signals | None = None
    risk: Risk | None = None
    freedom: Freedom | None = None

    @property
    def verdict(self) -> str:
        """healthy, suspect or unhealthy: an error makes unhealthy, a warning suspect."""
        worst = max((f.severity for f in self.findings), default=Severity.INFO)
        return {Severity.ERROR: "unhealthy", Severity.WARNING: "suspect", Severity.INFO: "healthy"}[worst]

    @property
    def folded(self) -> bool:
        """Whether batch norms are merged into the weights, so that the risk told is not that of training."""
        return any(signals is not None and signals.folded for signals in (self.probe, self.theory))

    def __repr__(self) -> str:
        found = f"{len(self.findings)} findings on {len(self.measured)} weights"
        return f"<Report on {self.model.path}: {self.verdict}, {found}>"
