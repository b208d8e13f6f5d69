"""One mechanism that finds rules, formats and reporters: import each module of a package, collect by type."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

from initaudit.types import Audit, Evidence, Finding, Measured, Severity

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class ByName(dict[str, F]):
    """Functions by name. Called, it enters one under every name that it does for: `@op("add", "sub")`."""

    def __call__(self, *names: str) -> Callable[[F], F]:
        """Return the decorator that enters a function under these names."""

        def enter(function: F) -> F:
            self.update(dict.fromkeys(names, function))
            return function

        return enter


def members(package: ModuleType, kind: type[T]) -> tuple[T, ...]:
    """Return every top-level value of type `kind` in the modules of `package`, in module order, each once."""
    found: dict[int, T] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, kind):
                found.setdefault(id(value), value)
    return tuple(found.values())


CAP = {Evidence.ASSUMED: Severity.INFO, Evidence.NAMED: Severity.WARNING, Evidence.TRACED: Severity.ERROR}


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault with a stable code: the function that finds it, and its docstring, which is its documentation."""

    code: str
    severity: Severity
    check: Callable[..., Iterator[Finding]]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The fault's name, dashes for underscores."""
        return self.check.__name__.replace("_", "-")

    @property
    def doc(self) -> str:
        """The rule's page in markdown."""
        return inspect.cleandoc(self.check.__doc__ or "")

    @property
    def title(self) -> str:
        """First line of the page."""
        return self.doc.partition("\n")[0]

    def __call__(self, audit: Audit) -> Iterator[Finding]:
        """Yield this rule's findings."""
        return self.check(audit, **self.settings)

    def at(
        self,
        where: Measured | None,
        message: str,
        *,
        severity: Severity | None = None,
        needs: Evidence | None = None,
        tensor: str = "",
        remedy: str = "",
        also: tuple[str, ...] = (),
        **evidence: Any,
    ) -> Finding:
        """Return a finding on a layer.

        `needs` is the evidence for what the verdict depends on; it caps the severity (ASSUMED: info, NAMED: warning),
        and the finding remembers what it would have been.
        """
        wanted = self.severity if severity is None else severity
        capped = wanted if needs is None else min(wanted, CAP[needs])
        return Finding(
            rule=self.code,
            name=self.name,
            severity=capped,
            message=message,
            layer=where.layer.name if where else None,
            tensor=tensor or (where.layer.weight.name if where else None),
            evidence=evidence,
            remedy=remedy,
            capped=wanted if capped < wanted else None,
            also=also,
        )


def rule(code: str, severity: Severity) -> Callable[[Callable[..., Iterator[Finding]]], Rule]:
    """Make a rule of a generator that takes the Audit; its keyword-only arguments are its settings."""

    def wrap(check: Callable[..., Iterator[Finding]]) -> Rule:
        parameters = inspect.signature(check).parameters.values()
        settings = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        return Rule(code, severity, check, settings)

    return wrap
