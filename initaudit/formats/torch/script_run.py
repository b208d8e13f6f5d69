"""TorchScript followed without running it: numbers are worked out, tensors stay names, operators go on a tape.

An `if` whose condition is known takes that side; one that only a run could decide takes both, and what they leave
different is joined by a "phi". A side that raises is dropped. Loops with a known number of rounds are unrolled, others
are followed once.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from initaudit.formats.torch.script_calls import RaisedError, call
from initaudit.formats.torch.script_code import Code, Function, NoGraphError, dotted
from initaudit.formats.torch.script_eval import MAX_ROUNDS, Evaluator, Frame
from initaudit.formats.torch.script_lists import unpacked
from initaudit.formats.torch.script_machine import Machine
from initaudit.formats.torch.script_objects import Tree
from initaudit.formats.torch.script_values import Obj, Sym, truth

MAX_DEPTH = 100  # calls within calls


class ReturnedError(Exception):
    """The code followed returns wherever it gets here."""


class Runner(Evaluator):
    """Follows functions of one archive."""

    def __init__(self, code: Code, tree: Tree, machine: Machine) -> None:
        super().__init__(code, tree, machine)
        self._pending = tree.pending
        self._depth = 0

    # -- functions

    def restore(self) -> None:
        """Let objects with a state of their own take it up, as loading the archive would."""
        for made, state in self._pending:
            function = made.code.methods.get("__setstate__")
            if function is not None:
                self.invoke(function, [state], {}, made)

    def invoke(self, function: Function, args: list[Any], kwargs: dict[str, Any], owner: Obj | None = None) -> Any:
        """Return what a function or method gives."""
        if self._depth >= MAX_DEPTH:
            raise NoGraphError(f"calls within calls, more than {MAX_DEPTH} deep")
        parameters = function.node.args
        names = [parameter.arg for parameter in (*parameters.posonlyargs, *parameters.args)]
        given = [owner, *args] if owner is not None else args
        frame = Frame(dict(zip(names, given, strict=False)))
        defaults = dict(zip(reversed(names), reversed(parameters.defaults), strict=False))
        defaults |= {p.arg: d for p, d in zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True) if d}
        for name, default in defaults.items():
            if name not in frame.names and name not in kwargs:
                frame.names[name] = self.value(frame, default)
        frame.names.update(kwargs)
        scope = self.machine.scope
        if owner is not None and owner.code.base == "Module":
            self.machine.scope = owner.path
        self._depth += 1
        try:
            self.block(frame, function.node.body)
        except ReturnedError:
            pass
        finally:
            self._depth -= 1
            self.machine.scope = scope
        result = frame.returned[0] if frame.returned else None
        for other in frame.returned[1:]:
            result = self.machine.join(result, other)
        return result

    # -- statements

    def block(self, frame: Frame, statements: list[ast.stmt]) -> None:
        """Follow statements."""
        for statement in statements:
            self.machine.step()
            match statement:
                case ast.Assign(targets=[target], value=value):
                    self._assign(frame, target, value)
                case ast.AnnAssign(target=target, value=value) if value is not None:
                    self._assign(frame, target, value)
                case ast.Expr(value=value):
                    self.value(frame, value)
                case ast.If():
                    self._if(frame, statement)
                case ast.Return(value=value):
                    frame.returned.append(None if value is None else self.value(frame, value))
                    raise ReturnedError
                case ast.For():
                    self._for(frame, statement)
                case ast.While():
                    self._while(frame, statement)
                case ast.With(body=body):
                    self.block(frame, body)
                case ast.Raise():
                    raise RaisedError("an exception")
                case ast.Assert(test=test):
                    if truth(self.value(frame, test)) is False:
                        raise RaisedError("an assertion")

    def _assign(self, frame: Frame, target: ast.expr, value: ast.expr) -> None:
        if not isinstance(target, ast.Tuple):
            self._store(frame, target, self.value(frame, value))
            return
        if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts):
            found = [self.value(frame, item) for item in value.elts]
        else:
            count = len(target.elts)
            found = unpacked(self.machine, self.value(frame, value, count), count)
        for part, item in zip(target.elts, found, strict=True):
            self._store(frame, part, item)

    def _store(self, frame: Frame, target: ast.expr, value: Any) -> None:
        match target:
            case ast.Name(id=name):
                frame.names[name] = value
            case ast.Attribute(value=owner, attr=name):
                holder = self.value(frame, owner)
                if isinstance(holder, Obj):
                    self.machine.touch(holder)
                    holder.attrs[name] = value
            case ast.Subscript(value=owner, slice=index):
                call(self.machine, "aten", "_set_item", [self.value(frame, owner), self.value(frame, index), value], {})

    def _if(self, frame: Frame, statement: ast.If) -> None:
        condition = self.value(frame, statement.test)
        side = truth(condition)
        if side is not None:
            self.block(frame, statement.body if side else statement.orelse)
            return
        self.machine.asked_rank = self.machine.asked_rank or (isinstance(condition, Sym) and condition.ranked)
        one = self._side(frame, statement.body)
        other = self._side(frame, statement.orelse)
        if one is None and other is None:
            raise RaisedError("both sides of an if raise")
        if one is None or other is None:
            self._take(frame, one or other)
            return
        self.machine.undecided += 1
        self.machine.merge(one.changes, other.changes)
        if one.returned and other.returned:
            raise ReturnedError
        if one.returned or other.returned:
            frame.names = other.names if one.returned else one.names
            return
        for name in one.names:
            if name in other.names:
                frame.names[name] = self.machine.join(one.names[name], other.names[name])

    def _side(self, frame: Frame, body: list[ast.stmt]) -> _Side | None:
        """Follow one side of an if and undo its changes; None if it raises."""
        mark = self.machine.mark()
        inner = Frame(dict(frame.names), frame.returned)
        count, returned = len(frame.returned), False
        try:
            self.block(inner, body)
        except RaisedError:
            self.machine.back(mark, forget_calls=True)
            del frame.returned[count:]
            return None
        except ReturnedError:
            returned = True
        return _Side(inner.names, self.machine.back(mark, forget_calls=False), returned)

    def _take(self, frame: Frame, side: _Side | None) -> None:
        assert side is not None
        self.machine.redo(side.changes)
        frame.names = side.names
        if side.returned:
            raise ReturnedError

    def _for(self, frame: Frame, statement: ast.For) -> None:
        rounds = self._rounds(frame, statement.iter)
        if rounds is not None and len(rounds) <= MAX_ROUNDS:
            for item in rounds:
                self.machine.step()
                self._store(frame, statement.target, item)
                self.block(frame, statement.body)
            return
        index = self.machine.emit("loop_index")[0]
        index.number, index.shape = True, ()
        self._store(frame, statement.target, index)
        self._once(frame, statement.body)

    def _rounds(self, frame: Frame, node: ast.expr) -> range | list[Any] | None:
        if isinstance(node, ast.Call) and dotted(node.func) == "range":
            bounds = [self.value(frame, arg) for arg in node.args]
            whole = all(type(bound) is int for bound in bounds) and 1 <= len(bounds) <= 3
            return range(*bounds) if whole and bounds[2:] != [0] else None
        items = self.value(frame, node)
        if isinstance(items, dict):
            return list(items)
        return list(items) if isinstance(items, (list, tuple, str)) else None

    def _while(self, frame: Frame, statement: ast.While) -> None:
        for _ in range(MAX_ROUNDS):
            side = truth(self.value(frame, statement.test))
            if side is None:
                break
            if not side:
                return
            self.block(frame, statement.body)
        self._once(frame, statement.body)

    def _once(self, frame: Frame, body: list[ast.stmt]) -> None:
        """Follow the body of a loop of unknown length; what it counts up is not known inside, nor what it leaves."""
        changed = _stored(body) & frame.names.keys()
        before = {name: frame.names[name] for name in changed}
        for name, value in before.items():
            if isinstance(value, (bool, int, float, str)):
                made = self.machine.emit("loop_index", (value,))[0]
                made.number, made.shape = True, ()
                frame.names[name] = made
        side = self._side(frame, body)
        if side is None:
            self.machine.misfits += 1  # a loop that nothing gets through
            frame.names.update(before)
            return
        self.machine.redo(side.changes)
        for name, value in side.names.items():
            frame.names[name] = self.machine.join(before[name], value) if name in before else value


@dataclass(slots=True)
class _Side:
    """What one side of an if left: its variables, what it changed, and whether it returned."""

    names: dict[str, Any]
    changes: dict[int, tuple[Any, Any]]
    returned: bool


def _stored(body: list[ast.stmt]) -> set[str]:
    """Return the variables that statements assign."""
    found: set[str] = set()
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found
