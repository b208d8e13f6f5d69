"""One row per initializer: its law, its variance, how to draw it, what it is called, and where it comes from.

The same row is what a layer is compared with, what a tensor is identified as, and what a repair draws. A scheme is
written as `name` or `name:key=value,...`: `he`, `kaiming-uniform:mode=fan_out`, `normal:std=0.02`.
"""

from initaudit.schemes.defaults import resolve, torch_default
from initaudit.schemes.layers import expect, fans_of
from initaudit.schemes.reading import listing, parse
from initaudit.schemes.row import REQUIRED, Fans, Params, Scheme, Value
from initaudit.schemes.spreads import gain_of
from initaudit.schemes.table import METHODS, ROWS

__all__ = [
    "METHODS",
    "REQUIRED",
    "ROWS",
    "Fans",
    "Params",
    "Scheme",
    "Value",
    "expect",
    "fans_of",
    "gain_of",
    "listing",
    "parse",
    "resolve",
    "torch_default",
]
