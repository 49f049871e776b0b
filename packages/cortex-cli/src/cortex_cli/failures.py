"""How a command ends when it does not end well."""

from __future__ import annotations

import enum

import click
import msgspec


class Exit(enum.IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 3
    UNREACHABLE = 4
    NOT_FOUND = 5
    DOES_NOT_FIT = 6
    TIMED_OUT = 7
    REFUSED = 8
    INTERRUPTED = 130


class Failure(Exception):
    """What the user is told, and what a script reads off the exit code.

    Args:
        exit: the command's exit code.
        code: the same for a program that reads the JSON: the gateway's own code where it gave one.
        message: one line for people.
    """

    def __init__(self, exit: Exit, code: str, message: str) -> None:  # noqa: A002 - the word for it
        super().__init__(message)
        self.exit = exit
        self.code = code
        self.message = message


def report(failure: Failure, *, as_json: bool) -> Exit:
    """Say it on stderr and hand back the exit code."""
    if as_json:
        error = {"code": failure.code, "message": failure.message, "exit_code": int(failure.exit)}
        click.echo(msgspec.json.encode({"error": error}).decode(), err=True)
    else:
        click.echo(f"cortex: {failure.message}", err=True)
    return failure.exit
