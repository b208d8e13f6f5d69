"""The measures as their definitions say, in float64 and with copies."""

import math

import numpy as np

from initaudit.types import Tensor


def tensor(values, name="w"):
    values = np.asarray(values)
    return Tensor(name, values.shape, str(values.dtype), lambda: values)


def canonical(values, axes, groups=1):
    """Return a copy as (operators, out, in, kernel)."""
    order = sorted(range(len(axes)), key=lambda n: ("soik".index(axes[n]), n))
    s, o, i, k = (
        math.prod(e for label, e in zip(axes, values.shape, strict=True) if label == wanted) for wanted in "soik"
    )
    x = values.transpose(order).reshape(s, o, i, k)
    if groups == 1:
        return x
    if "i" in axes and "o" in axes and axes.index("i") < axes.index("o"):
        x = x.reshape(s, o, groups, i // groups, k).transpose(0, 2, 1, 3, 4)
        return x.reshape(s * groups, o, i // groups, k)
    return x.reshape(s * groups, o // groups, i, k)


def moments(x):
    """Return mean, variance and kurtosis of the finite values in extended precision."""
    x = np.asarray(x, np.longdouble).reshape(-1)
    x = x[np.isfinite(x)]
    if not x.size:
        return math.nan, math.nan, math.nan
    mean = x.mean()
    d = x - mean
    variance = (d * d).mean()
    kurtosis = (d**4).mean() / variance**2 if variance > 0 else math.nan
    return float(mean), float(variance), float(kurtosis)


def same_partition(hashes, units):
    """Whether two units have equal hashes exactly where their values are equal."""
    keys = {}
    values = [tuple((np.asarray(unit, np.float64) + 0.0).reshape(-1).tolist()) for unit in units]
    for value, hashed in zip(values, hashes.tolist(), strict=True):
        if keys.setdefault(value, hashed) != hashed:
            return False
    return len(set(keys.values())) == len(keys)
