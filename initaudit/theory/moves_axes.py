"""Axes taken apart and put together: what a reshape does to kernels and to their gradients.

A Regroup is a chain of steps on the axes of a grid, each "split" (one axis becomes two) or "merge" (two become one).
Pairs of positions stay the same pairs, so the mean over all of them stays what it is: offsets that both grids know are
carried over one by one, what is left goes to far.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from initaudit.theory.engine import Unread
from initaudit.theory.grid import REACH, Grid
from initaudit.theory.kernel import BATCH, PLACE, Atom, Axis, Back, Kernel
from initaudit.types import Array

Profile = tuple[Array | None, ...]
Parts = list[tuple[float, tuple[int, ...]]]  # shares, and offsets on the other grid


@dataclass(frozen=True, slots=True)
class Change:
    """An axis of a grid that becomes two, or two that become one."""

    small: Grid  # the one with fewer axes
    large: Grid
    axis: int
    splits: bool  # from small to large

    def __call__(self, f: Array) -> Array:
        """Carry a function of the offset over."""
        if self.splits:
            return transferred(f, self.small, self.large, self._inside)
        return transferred(f, self.large, self.small, self._across)

    def turned(self) -> Change:
        """Return the way back."""
        return replace(self, splits=not self.splits)

    def profile(self, given: Profile) -> Profile:
        """Carry a profile over."""
        if not given:
            return ()
        at, inner = self.axis, self.large.extents[self.axis + 1]
        if self.splits:
            f = given[at]
            pair = (None, None) if f is None else (f.reshape(-1, inner).mean(1), _unit(f.reshape(-1, inner).mean(0)))
            return (*given[:at], *pair, *given[at + 1 :])
        a, b = given[at : at + 2]
        if a is None and b is None:
            return (*given[:at], None, *given[at + 2 :])
        first = np.ones(self.large.extents[at]) if a is None else a
        second = np.ones(inner) if b is None else b
        return (*given[:at], np.outer(first, second).ravel(), *given[at + 2 :])

    def _inside(self, offset: tuple[int, ...]) -> Parts:
        """Return what an offset of blocks and within them is without blocks."""
        at, inner = self.axis, self.large.extents[self.axis + 1]
        blocks, within = offset[at], offset[at + 1]
        rest = offset[:at], offset[at + 2 :]
        return [(0.5, (*rest[0], abs(blocks * inner + sign * within), *rest[1])) for sign in (1, -1)]

    def _across(self, offset: tuple[int, ...]) -> Parts:
        at, inner = self.axis, self.large.extents[self.axis + 1]
        blocks, within = divmod(offset[at], inner)
        out = [((inner - within) / inner, (*offset[:at], blocks, within, *offset[at + 1 :]))]
        if within:
            out.append((within / inner, (*offset[:at], blocks + 1, inner - within, *offset[at + 1 :])))
        return out


@dataclass(frozen=True, slots=True)
class Order:
    """Axes of a grid in another order."""

    before: Grid
    order: tuple[int, ...]

    @property
    def after(self) -> Grid:
        """The grid with its axes in the new order."""
        extents, reach = self.before.extents, self.before.reach
        return Grid(tuple(extents[a] for a in self.order), tuple(reach[a] for a in self.order))

    def __call__(self, f: Array) -> Array:
        """Carry a function of the offset over."""
        return self.after.made(self.before.table(f).transpose(self.order), float(f[-1]))

    def turned(self) -> Order:
        """Return the way back."""
        return Order(self.after, tuple(self.order.index(a) for a in range(len(self.order))))

    def profile(self, given: Profile) -> Profile:
        """Carry a profile over."""
        return tuple(given[a] for a in self.order) if given else ()


def _unit(f: Array) -> Array:
    mean = float(f.mean())
    return f / mean if mean > 0 else np.ones(len(f))


def transferred(f: Array, old: Grid, new: Grid, source: Callable[[tuple[int, ...]], Parts]) -> Array:
    """Return a function of the offset on another grid over the same positions; the mean over all pairs is kept."""
    out = np.empty(new.size)
    for k, offset in enumerate(itertools.product(*(range(r + 1) for r in new.reach))):
        out[k] = sum(share * old.at(f, other) for share, other in source(offset))
    counts = new.counts
    out[-1] = f[-1]
    if counts[-1] > 0:
        whole = old.total(f)
        rest = whole - float(counts[:-1] @ out[:-1])
        out[-1] = rest / counts[-1] if abs(rest) > 1e-12 * float(counts[:-1] @ np.abs(out[:-1])) else 0.0
    return out


@dataclass(slots=True)
class Regroup:
    """A chain of changes of one grid, built up step by step."""

    grid: Grid
    changes: list[Change | Order]

    def split(self, axis: int, outer: int, inner: int) -> None:
        """Make an axis of the grid two: blocks, and places within a block."""
        extents, reach = self.grid.extents, self.grid.reach
        blocks = min(reach[axis] // inner, outer - 1) if reach[axis] >= inner else 0
        large = Grid(
            (*extents[:axis], outer, inner, *extents[axis + 1 :]),
            (*reach[:axis], blocks, min(reach[axis], inner - 1), *reach[axis + 1 :]),
        )
        self._then(Change(self.grid, large, axis, True), large)

    def merge(self, axis: int) -> None:
        """Make two neighbouring axes one, the first being that of blocks."""
        extents, reach = self.grid.extents, self.grid.reach
        length = extents[axis] * extents[axis + 1]
        near = min(REACH, length - 1) if reach[axis + 1] or reach[axis] else 0
        small = Grid(
            (*extents[:axis], length, *extents[axis + 2 :]), (*reach[:axis], near, *reach[axis + 2 :])
        )  # fmt: skip
        self._then(Change(small, self.grid, axis, False), small)

    def order(self, order: Sequence[int]) -> None:
        """Put the axes of the grid into another order."""
        change = Order(self.grid, tuple(order))
        self._then(change, change.after)

    def _then(self, change: Change | Order, grid: Grid) -> None:
        self.changes.append(change)
        self.grid = grid

    def forward(self, x: Kernel, axes: Sequence[Axis]) -> Kernel:
        """Return a kernel with its grid changed and these axes."""
        own, shared, profile = x.own, x.shared, x.profile
        for change in self.changes:
            own, shared, profile = change(own), change(shared), change.profile(profile)
        return replace(x, axes=tuple(axes), grid=self.grid, own=own, shared=shared, profile=profile, bend=None)

    def backward(self, d: Back, grid: Grid) -> Back:
        """Return a gradient on the grid from before, which is given to be sure."""
        if not self.changes:
            return d
        ways = [change.turned() for change in reversed(self.changes)]
        profile = d.profile
        for way in ways:
            profile = way.profile(profile)

        def change(f: Array) -> Array:
            for way in ways:
                f = way(f)
            return f

        return replace(d.mapped(change, grid), profile=profile)


def regrouped(x: Kernel, shape: Sequence[int]) -> tuple[tuple[Axis, ...], Regroup]:
    """Return the axes of a kernel in another shape, and what that does to its grid.

    Raises:
        Unread: elements would have to change places, or units and positions become one.
    """
    todo = [atom for axis in x.axes for atom in axis]
    work = Regroup(x.grid, [])
    axes: list[Axis] = []
    for n in shape:
        need = int(n)
        axis: list[Atom] = []
        while todo and (need > 1 or (todo[0].extent == 1 and not axis)):
            atom = todo.pop(0)
            if need % atom.extent == 0:
                need //= atom.extent
            elif atom.extent % need == 0:
                atom, rest = _halves(atom, need, work)
                todo = [_moved(a, atom.at) for a in todo] if rest.kind == PLACE else todo
                axes = [tuple(_moved(a, atom.at) for a in one) for one in axes] if rest.kind == PLACE else axes
                axis = [_moved(a, atom.at) for a in axis] if rest.kind == PLACE else axis
                todo.insert(0, rest)
                need = 1
            else:
                atom = _whole(atom, todo, work, need)
                todo.insert(0, atom)
                continue
            axis.append(atom)
        if need > 1:
            raise Unread
        axes.append(tuple(_joined(axis)))
    if any(atom.extent > 1 for atom in todo):
        raise Unread
    if todo and axes:
        axes[-1] = (*axes[-1], *todo)
    return tuple(axes), work


def _halves(atom: Atom, outer: int, work: Regroup) -> tuple[Atom, Atom]:
    inner = atom.extent // outer
    if atom.kind != PLACE:
        return replace(atom, extent=outer), replace(atom, extent=inner)
    work.split(atom.at, outer, inner)
    return Atom(PLACE, outer, atom.at), Atom(PLACE, inner, atom.at + 1)


def _moved(atom: Atom, at: int) -> Atom:
    """Return an atom with its axis of the grid one further on, if it comes behind the one that was split."""
    return replace(atom, at=atom.at + 1) if atom.kind == PLACE and atom.at > at else atom


def _whole(atom: Atom, todo: list[Atom], work: Regroup, need: int) -> Atom:
    """Join an atom with the next one, where only both together can be cut as needed. Raises Unread."""
    if not todo or todo[0].kind != atom.kind or atom.kind == PLACE:
        raise Unread
    return replace(atom, extent=atom.extent * todo.pop(0).extent)


def _joined(axis: list[Atom]) -> list[Atom]:
    """Return the atoms of an axis, units side by side being one."""
    out: list[Atom] = []
    for atom in axis:
        if atom.extent == 1 and atom.kind != BATCH:
            continue
        if out and out[-1].kind == atom.kind != PLACE:
            out[-1] = replace(atom, extent=out[-1].extent * atom.extent)
        else:
            out.append(atom)
    return out


def merged(x: Kernel, axis: int) -> tuple[Kernel, Regroup]:
    """Return a kernel with all positions of an axis on one axis of the grid. Raises Unread."""
    work = Regroup(x.grid, [])
    axes = list(x.axes)
    places = [atom.at for one in axes for atom in one if atom.kind == PLACE]
    if len([atom for atom in axes[axis] if atom.kind == PLACE]) > 1 and places != sorted(places):
        if sorted(places) != list(range(len(x.grid.extents))):
            raise Unread
        work.order(places)
        axes = [tuple(replace(a, at=places.index(a.at)) if a.kind == PLACE else a for a in one) for one in axes]
    while True:
        atoms = axes[axis]
        at = next((k for k in range(len(atoms) - 1) if atoms[k].kind == atoms[k + 1].kind == PLACE), None)
        if at is None:
            break
        first, second = atoms[at], atoms[at + 1]
        if second.at != first.at + 1:
            raise Unread
        work.merge(first.at)
        one = Atom(PLACE, first.extent * second.extent, first.at)
        axes[axis] = (*atoms[:at], one, *atoms[at + 2 :])
        axes = [
            tuple(replace(a, at=a.at - 1) if a.kind == PLACE and a.at > first.at else a for a in one_axis)
            for one_axis in axes
        ]  # fmt: skip
    return (work.forward(x, axes) if work.changes else x), work


def rebuilt(x: Kernel, axis: int, atoms: Axis) -> tuple[Kernel, Callable[[Back], Back]]:
    """Return a kernel with the positions of an axis grouped as those of another, and the way back. Raises Unread."""
    one, joining = merged(x, axis)
    extents = [atom.extent for atom in atoms if atom.kind == PLACE]
    work = Regroup(one.grid, [])
    at = next((atom.at for atom in one.axes[axis] if atom.kind == PLACE), None)
    if at is None or int(np.prod(extents)) != one.grid.extents[at]:
        raise Unread
    axes = list(one.axes)
    for k in range(len(extents) - 1):
        work.split(at + k, extents[k], int(np.prod(extents[k + 1 :])))
        axes = [tuple(_moved(a, at + k) for a in other) for other in axes]
    rest = tuple(a for a in one.axes[axis] if a.kind != PLACE)
    axes[axis] = (*rest, *(Atom(PLACE, n, at + k) for k, n in enumerate(extents)))
    out = work.forward(one, axes)
    return out, lambda d: joining.backward(work.backward(d, one.grid), x.grid)


def kinds(axis: Axis) -> set[str]:
    """Return what an axis holds: units, positions, inputs; nothing where it has one element."""
    return {atom.kind for atom in axis if atom.extent > 1}
