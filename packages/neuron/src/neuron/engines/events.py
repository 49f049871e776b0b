"""What an engine host tells the daemon, as JSON lines on a pipe.

All processes of one engine write to one pipe; a line below PIPE_BUF is written whole (pipe(7)), so lines never mix.
The end of the pipe is the end of the last process that held it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from neuron.engines.base import Facts, Finished, Progress

SLEEP = "/neuron/sleep"  # POST on the engine host's socket, ?level=1 or 2: what the daemon tells it there
WAKE = "/neuron/wake"
_LINE = 4096  # PIPE_BUF on Linux
_PLAIN = (ValueError, RuntimeError, FileNotFoundError)
_WORDS = 1500  # characters of an error message: with escapes it still fits a line


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a load fails, or a running engine ends: the first one told is the cause, later ones follow from it."""

    phase: str
    message: str
    scope: str = "model"


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line: exactly one field is set."""

    progress: Progress | None = None
    serving: Facts | None = None
    finished: Finished | None = None
    failure: Failure | None = None
    weights_bytes: int | None = None  # of the parameters on one device


_encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Event).decode


class Emitter:
    """Writes events. The daemon reads at once; if it does not, the engine waits for it, for usage must not be lost."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.phase = "fork"

    def progress(self, phase: str, done: float = 0.0, detail: str = "") -> None:
        self.phase = phase
        self._write(Event(progress=Progress(phase=phase, done=round(done, 3), detail=detail)))

    def serving(self, facts: Facts) -> None:
        self._write(Event(serving=facts))

    def weights(self, weights_bytes: int) -> None:
        self._write(Event(weights_bytes=weights_bytes))

    def finished(self, finished: Finished) -> None:
        self._write(Event(finished=finished))

    def failed(self, message: str, *, phase: str = "", scope: str = "model") -> None:
        """`phase`: where, if it is not the one last reported by this process."""
        words = message.encode(errors="replace").decode()[:_WORDS]
        self._write(Event(failure=Failure(phase=phase or self.phase, message=words, scope=scope)))

    def failures(self, scope_of: Callable[[BaseException], str]) -> _Failures:
        """A context in which an exception is told as the failure, and goes on."""
        return _Failures(self, scope_of)

    def _write(self, event: Event) -> None:
        line = _encode(event) + b"\n"
        if len(line) > _LINE:
            raise ValueError(f"an event of {len(line)} bytes")
        try:
            os.write(self._fd, line)
        except BrokenPipeError:
            os._exit(1)  # nobody is left to serve


class _Failures:
    __slots__ = ("_emit", "_scope_of")

    def __init__(self, emit: Emitter, scope_of: Callable[[BaseException], str]) -> None:
        self._emit = emit
        self._scope_of = scope_of

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            self._emit.failed(words(error), scope=self._scope_of(error))


def words(error: BaseException) -> str:
    """An exception as one message: the text alone where that is written for people."""
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):  # pydantic's, with much around it
        return "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors())
    text = str(error).strip()
    return text if isinstance(error, _PLAIN) and text else f"{type(error).__name__}: {text}"


def sockets_folder(socket: Path) -> Path:
    """Where an engine's processes talk to each other; the daemon makes and removes it."""
    return socket.with_suffix(".d")


def encode_request(spec: msgspec.Struct) -> str:
    """A LoadSpec as text, for the engine module's `main`."""
    return msgspec.json.encode(spec, enc_hook=str).decode()


def decode_request(text: str, kind: type[Any]) -> Any:
    return msgspec.json.decode(text, type=kind, dec_hook=lambda wanted, value: wanted(value))
