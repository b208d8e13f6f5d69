"""The user's own code, by the user's word: `--model package.module:callable` or `--model path/to/file.py:callable`."""

from __future__ import annotations

import importlib
import importlib.util
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from initaudit.errors import InitauditError, UsageError

_LIBRARIES = (
    *{sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")},
    *site.getsitepackages(),
    str(Path(__file__).resolve().parent.parent),
    "<frozen",
)


def resolve(given: str | Callable[[], Any] | None) -> Callable[[], nn.Module]:
    """Import what `given` names and return a function that makes the module; called twice it may make two.

    Raises:
        UsageError: there is nothing of this name, or importing it fails.
    """
    found: Any = _named(given) if isinstance(given, str) else given
    name = given if isinstance(given, str) else getattr(given, "__qualname__", type(given).__name__)
    if not isinstance(found, nn.Module) and not callable(found):
        raise UsageError(f"{name} is a {type(found).__name__}: neither a torch.nn.Module nor something that makes one")

    def make() -> nn.Module:
        if isinstance(found, nn.Module):
            return found
        with users_code(f"calling {name}"), without_arguments(name.rpartition(":")[0] or name):
            made = found()
        if not isinstance(made, nn.Module):
            raise UsageError(f"{name} returned a {type(made).__name__}, not a torch.nn.Module")
        return made

    return make


def _named(given: str) -> Any:
    where, colon, name = given.rpartition(":")
    if not colon or not where or not name or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"--model takes package.module:callable or path/to/file.py:callable, not {given!r}")
    with users_code(f"importing {where}"), without_arguments(where):
        found: Any = _from_file(Path(where)) if where.endswith(".py") else _from_package(where)
    for part in name.split("."):
        if not hasattr(found, part):
            near = ", ".join(key for key in vars(found) if not key.startswith("_") and callable(getattr(found, key)))
            raise UsageError(f"{where} has no {name!r}; it has {near[:200] or 'nothing to call'}")
        found = getattr(found, part)
    return found


def _from_package(name: str) -> Any:
    _first_on_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(f"no module named {error.name!r}, neither installed nor in this folder") from None
        raise


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError("no such file", str(path))
    _first_on_path(Path.cwd())
    _first_on_path(path.resolve().parent)  # as `python file.py` does
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) and Path(str(known.__file__)).samefile(path):
        return known
    name = path.stem if known is None else f"{path.stem} of {path.parent.name}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("cannot be imported as a Python file", str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _first_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@contextmanager
def without_arguments(script: str) -> Iterator[None]:
    """Let code that reads the command line find that of `python script`, not ours."""
    ours = sys.argv
    sys.argv = [script]
    try:
        yield
    finally:
        sys.argv = ours


@contextmanager
def users_code(doing: str) -> Iterator[None]:
    """Turn whatever the user's code raises into one line: what, and the line of theirs that it came from."""
    try:
        yield
    except InitauditError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{doing} failed: {described(error)}") from error


def described(error: BaseException) -> str:
    """Return the type and message of an exception and the innermost line of the user's code that it passed."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{name}: {error.msg} ({Path(error.filename).name}:{error.lineno})"
    return f"{name}: {text[:300]}{where(error)}" if text else f"{name}{where(error)}"


def where(error: BaseException | None) -> str:
    """Return " (file.py:12, in forward)" for the innermost line of the user's code that an error passed."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
        if own and not isinstance(error, InitauditError):
            return f" ({_near(own[-1].filename)}:{own[-1].lineno}, in {own[-1].name})"
        error = error.__cause__ or error.__context__
    return ""


def _near(path: str) -> str:
    """A path as a person in this folder would write it."""
    here = Path.cwd()
    full = Path(path)
    return str(full.relative_to(here)) if full.is_relative_to(here) else full.name
