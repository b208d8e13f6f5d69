"""The parameters of every row against those of torch itself."""

from __future__ import annotations

import inspect

import pytest

from initaudit.ops import OPS
from initaudit.torch_ops.bind import FIRST, IGNORED, SAME
from initaudit.torch_ops.builder import TABLES, rows_of
from initaudit.torch_ops.expand import HANDLERS
from initaudit.torch_ops.rows import Row

torch = pytest.importorskip("torch")
functional = torch.nn.functional

UNBOUND = {  # overloads of functions in the table that are left to be nodes of their own name, or are told apart later
    ("_make_dual", "default"), ("_nested_from_padded", "default"), ("baddbmm", "dtype"), ("eq", "Tensor_list"),
    ("ne", "Tensor_list"), ("index", "list_Tensor"), ("sort", "Tensor"), ("repeat_interleave", "Tensor"),
    *((f"{name}{mean}", "default") for name in ("var", "std") for mean in ("", "_mean")),
}  # fmt: skip
BY_PLACE = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


def fits(row: Row, positional: list[str], keywords: list[str]) -> bool:
    """Whether a call with all these arguments, each under its name, binds to the row as torch means it."""
    parameters = row.parameters
    rest = bool(parameters) and parameters[-1].rest
    fixed = [{p.name, *p.also} for p in (parameters[:-1] if rest else parameters)]
    for place, name in enumerate(positional):
        if place >= len(fixed):
            if not rest and name not in IGNORED:
                return False
        elif name not in fixed[place] and SAME.get(name) not in fixed[place] and not (place == 0 and name in FIRST):
            return False
    known = {name for p in parameters for name in (p.name, *p.also)}
    return rest or all(name in known or name in IGNORED or SAME.get(name) in known for name in keywords)


@pytest.mark.parametrize("name", sorted(TABLES["function"]))
def test_a_function_of_torch_nn_functional_takes_what_its_row_says(name):
    function = getattr(functional, name, None)
    if not inspect.isfunction(function):
        return
    positional = list(inspect.signature(inspect.unwrap(function)).parameters)
    if positional != ["args", "kwargs"]:
        assert any(fits(row, positional, []) for row in rows_of("function", name)), positional


@pytest.mark.parametrize("name", sorted(TABLES["aten"]))
def test_an_aten_function_takes_what_its_row_says(name):
    packet = getattr(torch.ops.aten, name, None)
    rows = rows_of("aten", name)
    if packet is None or name in BY_PLACE or rows[0].op in ("source", "size", "shape", "loss"):
        return
    for overload in packet.overloads():
        schema = getattr(packet, overload)._schema
        named = {"out", "names", "dimname"} & set(overload.lower().split("_"))
        if named or "Dict" in overload or (name, overload) in UNBOUND:
            continue
        if not any("Tensor" in str(a.type) for a in schema.arguments) or any(a.is_out for a in schema.arguments):
            continue
        positional = [a.name for a in schema.arguments if not a.kwarg_only]
        keywords = [a.name for a in schema.arguments if a.kwarg_only]
        assert any(fits(row, positional, keywords) for row in rows), (overload, positional, keywords)


def test_the_check_can_fail():
    row = rows_of("function", "batch_norm")[0]
    assert fits(row, ["input", "running_mean", "running_var", "weight", "bias"], [])
    assert not fits(row, ["input", "weight", "bias", "running_mean", "running_var"], [])


def test_every_operation_has_a_family_and_every_expansion_a_function():
    rows = [row for table in TABLES.values() for rows in table.values() for row in rows]
    for row in rows:
        if row.op.startswith("!"):
            assert row.op[1:] in HANDLERS
        else:
            assert row.op in OPS, row.op


def test_no_function_of_torch_nn_functional_is_forgotten():
    own = [n for n, f in vars(functional).items() if inspect.isfunction(f) and f.__module__ == functional.__name__]
    public = [n for n in own if not n.startswith("_") and n not in ("assert_int_or_pair", "has_torch_function")]
    assert [n for n in public if not rows_of("function", n)] == KNOWN_AS_OTHER


KNOWN_AS_OTHER: list[str] = []
