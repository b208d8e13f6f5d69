"""Every exception initaudit raises on purpose.

    InitauditError                 exit 2; catch this to catch all of ours
    |- UsageError                  unknown code, bad setting, contradictory options
    |- ReadError                   the model could not be read
    |  |- UnknownFormatError       no format recognises the content
    |  |- CorruptFileError         the bytes contradict the format (the reason says where)
    |  '- UnsafeFileError          the file asks for something no weight file needs
    |- UnsupportedError            valid, but beyond us; the reason says what is supported
    '- WriteError                  nothing was written

Inner code raises the short cause without a path; `formats.read` adds the path once.
"""

from __future__ import annotations

from typing import Self


class InitauditError(Exception):
    """Base of every refusal: one line that says what and where, exit code 2."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path

    def at(self, path: str) -> Self:
        """Return this refusal with the path it is about, if it has none yet."""
        return self if self.path else type(self)(self.reason, path)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class UsageError(InitauditError):
    """The command line or a setting asks for something that does not exist."""


class ReadError(InitauditError):
    """The model could not be read."""


class UnknownFormatError(ReadError):
    """No format recognises the content."""


class CorruptFileError(ReadError):
    """The bytes contradict the format they claim to be."""


class UnsafeFileError(ReadError):
    """Reading on would need more than a weight file may ask for."""


class UnsupportedError(InitauditError):
    """A valid file, but of a kind initaudit does not read yet."""


class WriteError(InitauditError):
    """Nothing was written."""
