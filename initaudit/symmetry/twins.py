"""Twins: units that are copies of each other but for sign or scale.

A unit k is the twin of a unit j by a factor c if its weights are c times those of j, what comes in and what goes out,
its bias too. With h_k = c h_j for every input its gradients are c times those of j:

    what comes in    w_k = c w_j and phi(c z) = c phi(z) make h_k = c h_j
    what comes back  v_k = c v_j makes dL/dh_k = c dL/dh_j, and phi'(c z) = phi'(z) makes dL/dw_k = c dL/dw_j
    what goes out    dL/dv_k = h_k delta = c dL/dv_j

so that c stays what it is. Which c there can be depends on what the unit passes through:

    an odd function      c = -1    tanh, erf, sin, softsign, softshrink, asinh; batch, instance and RMS norms
    a homogeneous one    c > 0     relu, leaky relu, one slope for all units, max pooling
    a linear one         any c     sums, averages, reshapes, concatenation, a product with one number

Products of two values let a sign through. Norms with a mean over units (layer and group norm), softmax, attention,
recurrent layers and outputs of the network let nothing through. Units of a depthwise convolution, and units that are
multiplied with a weight of their own, have c = -1 at most: how fast such a weight moves goes with the square of c.

    c = -1       stays with gradient descent, with momentum and weight decay, and with Adam: each step is odd in the
                 history of gradients
    another c    stays with gradient descent, with momentum and weight decay; Adam's steps do not grow with the gradient

Both were checked by training; `python -m benchmarks.symmetry_lenient` does it again.

To find them, each unit is measured in its own sign and length (gauge.py), which makes twins copies, and the rounds of
ties are run on that. On the way up a weight w_ki then counts as w_ki c_i / c_k, on the way back as w_ki c_k / c_i.
Numbers agree but for rounding, as c w is rounded too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from initaudit.graph.view import View
from initaudit.symmetry.close import joined
from initaudit.symmetry.exact import projected
from initaudit.symmetry.gauge import Gauge, changed, measured
from initaudit.symmetry.labels import chained, word
from initaudit.symmetry.nearly import Nearly, Rounded
from initaudit.types import Array, Graph, Tensor


class Rescaled(Rounded):
    """A reading of numbers that are measured otherwise on the way up than on the way back."""

    def sums(self, weight: Array, labels: Array, turned: bool = False) -> Array:
        """Return labels of sums over classes."""
        scaled = weight.dtype.kind == "c"
        if scaled:
            weight = weight.real / weight.imag if turned else weight.real * weight.imag
        out = joined(weight, labels, projected(weight, labels), self.least, self.most())
        if scaled:  # how fast sums move depends on the scales of their terms: only rows with the same terms are alike
            out = chained(out, word(self.name), np.arange(len(weight), dtype=np.uint64)[:, None])
        return out


class Twins(Nearly):
    """Rounds of labels in which units are measured in their own sign and scale."""

    made = Rescaled


def regauged(graph: Graph) -> Graph | None:
    """Return the graph with each unit measured in its own sign and scale; None where nothing can be chosen."""
    gauge = Gauge(View(graph))
    if not measured(gauge.measures):
        return None
    constants = dict(graph.constants)
    for changes, both in ((gauge.changes, True), (gauge.shifts, False)):
        for name, change in changes.items():
            constants[name] = replace(constants[name], load=_changed(constants[name], change, both=both))
    return replace(graph, constants=constants)


def _changed(tensor: Tensor, change: Array, *, both: bool) -> Callable[[], Array]:
    return lambda: changed(np.asarray(tensor.load()).reshape(tensor.shape), change, both=both)
