"""The activation after each weight of a file that does not hold its graph: families, configuration, vocabulary.

In this order: what a well-known family does, what the configuration says of feed-forward blocks, what is likely. Where
a module tree is known, the activation that a class holds counts as a configuration of its part.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

from initaudit.layers import words
from initaudit.layers.blocks import Blocks
from initaudit.layers.configured import Configuration
from initaudit.layers.drafts import OPERATORS
from initaudit.layers.families import Family, Matches, Reading, Told, plain
from initaudit.layers.families_architectures import ARCHITECTURES
from initaudit.layers.families_others import OTHERS
from initaudit.layers.families_senses import SENSES
from initaudit.layers.families_timm import TIMM
from initaudit.layers.families_torchvision import TORCHVISION
from initaudit.layers.families_transformers import TEXT
from initaudit.layers.guessed import Guesser
from initaudit.layers.norms import Norms
from initaudit.layers.places import place
from initaudit.types import Evidence, Layer, Role

FAMILIES: tuple[Family, ...] = (*TORCHVISION, *TIMM, *TEXT, *SENSES, *OTHERS)
_OF_THEIR_OWN = frozenset({"lstm", "gru", "rnn", "attention"})  # their kind says what follows


def fill(
    layers: Sequence[Layer], config: Mapping[str, Any], ordered: bool, told: Told | None = None, usual: str = ""
) -> list[Layer]:
    """Return the layers with the activation that names tell, where nothing better is known already.

    Args:
        layers: with kind, fans and role.
        config: of the model; {} if there is none.
        ordered: whether they stand in the order of registration.
        told: what a module tree says, asked before the configuration.
        usual: the one activation that the module tree holds, "" if it is not known or there are several.
    """
    configured = Configuration(config)

    def ask(key: str, path: str) -> str | None:
        return (told(key, path) if told else None) or configured.told(key, path)

    matches = Matches(FAMILIES, (plain(place(a).path) for a in layers), config, ARCHITECTURES)
    guesser = Guesser(layers, matches, ask, ordered, usual)
    blocks = Blocks(matches.paths)
    made = [_read(a, matches, blocks, guesser, ask) for a in layers]
    followed = Norms(made, ordered)
    return [_normed(a, matches, followed, ask) if a.kind == "norm" else _gate(a, matches.paths) for a in made]


def _read(a: Layer, matches: Matches, blocks: Blocks, guesser: Guesser, ask: Told) -> Layer:
    if a.kind == "embedding":  # that it is a table is certain in a module tree, what its rows meet is not
        a = replace(a, activation_evidence=min(a.activation_evidence, Evidence.NAMED))
    elif a.kind not in OPERATORS or a.kind in _OF_THEIR_OWN or a.activation_evidence > Evidence.ASSUMED:
        return a
    if a.role is Role.ADAPTER:
        return a
    path = plain(place(a).path)
    found = blocks.read(path, ask) or matches.read(path, ask)
    if found is None and a.kind != "embedding":
        found = guesser.read(a)
    if found is None or found.evidence < a.activation_evidence:
        return a
    if found.evidence is Evidence.ASSUMED and a.activation is not None:
        return a
    return _with(a, found)


def _normed(a: Layer, matches: Matches, followed: Norms, ask: Told) -> Layer:
    """Tell what follows a norm: its family says so, or the weight whose output it takes."""
    if a.activation_evidence > Evidence.ASSUMED:
        return a
    found = matches.read(plain(place(a).path), ask, norm=True) or followed.read(a)
    return a if found is None else _with(a, found)


def _gate(a: Layer, paths: Container[str]) -> Layer:
    """Call the gate of a gated feed-forward block one, after its activation is told: other gates have none."""
    if a.kind != "linear" or a.role not in (Role.TRUNK, Role.OTHER):
        return a
    parent, _, leaf = plain(place(a).path).rpartition(".")
    if not any(leaf == gate and f"{parent}.{value}".strip(".") in paths for gate, value in words.GLU):
        return a
    why = f"{Role.GATE}: multiplies another signal, by name"
    return replace(a, role=Role.GATE, role_evidence=Evidence.NAMED, reasons=(*a.reasons, why))


def _with(a: Layer, found: Reading) -> Layer:
    return replace(
        a,
        activation=found.activation,
        activation_evidence=found.evidence,
        reasons=(*a.reasons, found.reason) if found.reason else a.reasons,
    )
