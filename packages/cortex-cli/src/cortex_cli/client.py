"""One question to the gateway over the standard library's HTTP; whatever goes wrong becomes an exit code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import click
import msgspec

from cortex_cli.failures import Exit, Failure

GATEWAY = "http://127.0.0.1:31313"
TIMEOUT_S = 10.0
MAX_ANSWER = 64 << 20  # bytes; a fleet of 300 neurons with 1,000 models is 1 MiB

BY_CODE: Mapping[str, Exit] = {
    "model_not_found": Exit.NOT_FOUND,
    "neuron_not_found": Exit.NOT_FOUND,
    "model_cannot_fit": Exit.DOES_NOT_FIT,
    "no_capacity": Exit.DOES_NOT_FIT,
    "no_neuron": Exit.UNREACHABLE,
    "timeout": Exit.TIMED_OUT,
}
BY_STATUS: Mapping[int, Exit] = {401: Exit.REFUSED, 403: Exit.REFUSED, 409: Exit.REFUSED, 504: Exit.TIMED_OUT}


T = TypeVar("T")


class _Error(msgspec.Struct):
    message: str
    code: str | None = None


class _Envelope(msgspec.Struct):
    error: _Error


def _url(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    from urllib.parse import urlsplit

    wrong = click.BadParameter(f"{value!r} is no http://host:port")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise wrong from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise wrong
    return value.rstrip("/")


gateway_option = click.option(
    "--gateway",
    envvar="CORTEX_URL",
    default=GATEWAY,
    show_default=True,
    show_envvar=True,
    metavar="URL",
    callback=_url,
    help="The gateway to ask.",
)


def get(gateway: str, path: str, *, token: str = "", who: str = "gateway") -> bytes:
    """The body of the answer to a GET, of the gateway or of another part of cortex. Raises as `post` does."""
    return _ask(gateway, "GET", path, None, TIMEOUT_S, token=token, who=who)


def post(gateway: str, path: str, body: bytes, *, timeout_s: float = TIMEOUT_S) -> bytes:
    """The body of the gateway's answer to a POST of JSON.

    Raises:
        Failure: with the exit code for what went wrong.
    """
    return _ask(gateway, "POST", path, body, timeout_s)


def _ask(
    gateway: str, method: str, path: str, body: bytes | None, timeout_s: float, *, token: str = "", who: str = "gateway"
) -> bytes:
    import http.client
    from urllib.parse import urlsplit

    parts = urlsplit(gateway)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    headers = {"accept": "application/json", "connection": "close"}
    if body is not None:
        headers["content-type"] = "application/json"
    if token:
        headers["authorization"] = f"Bearer {token}"
    try:
        connection.connect()
        connection.sock.settimeout(timeout_s)
    except OSError as error:
        raise Failure(Exit.UNREACHABLE, "unreachable", f"no {who} at {gateway}: {error.strerror or error}") from error
    try:
        connection.request(method, parts.path + path, body, headers)
        answer = connection.getresponse()
        said = answer.read(MAX_ANSWER)
    except TimeoutError as error:
        raise Failure(Exit.TIMED_OUT, "timeout", f"{gateway} gave no answer within {timeout_s:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise Failure(Exit.UNREACHABLE, "unreachable", f"{gateway} broke off: {error!r}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise _refused(gateway, answer.status, said)
    return said


def _refused(gateway: str, status: int, body: bytes) -> Failure:
    try:
        error = msgspec.json.decode(body, type=_Envelope).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        error = _Error(f"{gateway} answered {status}, and not as a cortex gateway does")
    code = error.code or f"http_{status}"
    return Failure(BY_CODE.get(code) or BY_STATUS.get(status, Exit.FAILED), code, error.message)


def read(body: bytes, kind: type[T], gateway: str) -> T:
    """An answer as a value.

    Raises:
        Failure: it is not what a cortex gateway of this version says.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"{gateway} answers, but not as a cortex gateway of this version does: {error}"
        raise Failure(Exit.FAILED, "not_understood", message) from error
