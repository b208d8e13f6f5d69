"""A program that dies, or a disk that fails, at every single call to the system."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from initaudit.formats import interrupted, writing
from tests.formats.models_on_disk import edits, held, names, single

CALLS = ("open", "mkdir", "symlink", "link", "replace", "rename", "fsync", "unlink", "rmdir", "chmod", "chown")
DONE, FAILED, HALF, KILLED = 0, 10, 11, -9


def in_child(work: Callable[[], object]) -> int:
    """Return the exit code of a process that does some work: DONE, FAILED (refused), HALF, or minus the signal."""
    from initaudit.errors import InitauditError
    from initaudit.formats.writing.journal import HalfWrittenError

    child = os.fork()
    if not child:
        code = 99
        try:
            work()
            code = DONE
        except HalfWrittenError:
            code = HALF
        except InitauditError:
            code = FAILED
        except BaseException as error:  # what it was is said by the parent's assertion
            sys.stderr.write(f"child: {type(error).__name__} {error}\n")
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


class Steps:
    """Counts the calls to the system; at one of them the program is killed, or it and the next ones fail."""

    def __init__(
        self, at: int = -1, *, kill: bool = False, failures: int = 1, only: str = "", after: Steps | None = None
    ) -> None:
        self.count = 0
        self.log: list[tuple[str, tuple[Any, ...]]] = []
        self.failed = False
        self._at, self._kill, self._failures, self._only, self._after = at, kill, failures, only, after

    def install(self) -> Steps:
        """Wrap the functions of `os`, in this process for good."""
        for name in CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        return self

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if (self._only and name != self._only) or (self._after is not None and not self._after.failed):
                return real(*args, **kwargs)
            step, self.count = self.count, self.count + 1
            self.log.append((name, args))
            if self._at <= step < self._at + self._failures and self._at >= 0:
                if self._kill:
                    os.kill(os.getpid(), 9)
                self.failed = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return None if name == "fsync" else real(*args, **kwargs)  # a killed program needs no disk that keeps up

        return call


def count_steps(work: Callable[[], object], only: str = "") -> int:
    """Return how many calls some work makes, in a process of its own."""
    read, write = os.pipe()

    def counted() -> None:
        steps = Steps(only=only).install()
        work()
        os.write(write, str(steps.count).encode())

    assert in_child(counted) == DONE
    os.close(write)
    with os.fdopen(read) as told:
        return int(told.read())


def fixing(path: Path, *wanted: str, target: Path | None = None, force: bool = False) -> Callable[[], None]:
    """Return what fixes a model, in place if no target is named; nothing of it is prepared beforehand but the edits."""
    changes = edits(path, *wanted)

    def work() -> None:
        with writing.stage(path, changes, target, in_place=target is None, force=force) as staged:
            staged.commit()

    return work


def runs(tmp_path: Path, make: Callable[[Path], Path], *args: str) -> Iterator[tuple[int, Path, dict[str, bytes]]]:
    """Yield, for each call to the system, its number, a model that is still whole, and what its folder holds."""
    first = make(tmp_path / "count")
    steps = count_steps(fixing(first, *args))
    assert steps > 10
    for step in range(steps):
        path = make(tmp_path / f"at{step}")
        yield step, path, held(path.parent)


def one(folder: Path) -> Path:
    folder.mkdir()
    return single(folder / "m.safetensors")


def stages(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.startswith(interrupted.PREFIX)]


def after_fix(make: Callable[[Path], Path], folder: Path, *wanted: str) -> dict[str, bytes]:
    path = make(folder)
    fixing(path, *wanted)()
    return held(folder)
