"""What each command says, and how it ends."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from cortex_cli.failures import Exit
from cortex_cli.main import cortex as group
from tests.cli.conftest import Ran, Server
from tests.support.fleets import fleet_view
from tests.support.ports import free_port

Cortex = Callable[..., Ran]
Answering = Callable[[int, bytes], AbstractContextManager[Server]]

FLEET = msgspec.json.encode(fleet_view())
READERS = ("status", "ps", "ls")


def commands(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from commands(one, f"{path} {name}".strip())


COMMANDS = dict(commands(group))


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_every_option_has_help(path: str, cortex: Cortex) -> None:
    ran = cortex(*path.split(), "--help")
    assert ran.code == Exit.OK
    assert ran.out.startswith(f"Usage: cortex {path}".strip())
    assert COMMANDS[path].help
    assert all(option.help for option in COMMANDS[path].params if isinstance(option, click.Option))


@pytest.mark.parametrize(("command", "part"), [("status", ""), ("ps", "neurons"), ("ls", "models")])
def test_json_is_exactly_what_the_api_says(command: str, part: str, cortex: Cortex, answering: Answering) -> None:
    said = json.loads(FLEET) | {"of_a_newer_version": 1}
    with answering(200, json.dumps(said).encode()) as server:
        ran = cortex(command, "--gateway", server.url, "--json")
    assert server.asked == [("GET", "/cortex/v1/fleet", None)]
    assert (ran.code, ran.err) == (Exit.OK, "")
    assert json.loads(ran.out) == (said[part] if part else said)


@pytest.mark.parametrize("command", READERS)
def test_the_gateway_may_be_named_by_the_environment(
    command: str, cortex: Cortex, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(200, FLEET) as server:
        monkeypatch.setenv("CORTEX_URL", server.url + "/")
        ran = cortex(command)
    assert (ran.code, ran.err) == (Exit.OK, "")
    assert "busy" in ran.out
    assert "\x1b" not in ran.out, "no colours into a pipe"


ENDINGS = {
    "model unknown": (404, {"error": {"message": "no m", "code": "model_not_found"}}, Exit.NOT_FOUND, "no m"),
    "does not fit": (400, {"error": {"message": "9 > 8", "code": "model_cannot_fit"}}, Exit.DOES_NOT_FIT, "9 > 8"),
    "no permission": (403, {"error": {"message": "not you", "code": None}}, Exit.REFUSED, "not you"),
    "no key": (401, {"error": {"message": "key?", "code": "invalid_api_key"}}, Exit.REFUSED, "key?"),
    "timed out": (504, {"error": {"message": "late", "code": "timeout"}}, Exit.TIMED_OUT, "late"),
    "no neuron": (503, {"error": {"message": "none up", "code": "no_neuron"}}, Exit.UNREACHABLE, "none up"),
    "failed": (500, {"error": {"message": "broken", "code": None}}, Exit.FAILED, "broken"),
    "somebody else": (404, "<html>", Exit.FAILED, "answered 404, and not as a cortex gateway does"),
    "another API": (200, {"status": "fine"}, Exit.FAILED, "not as a cortex gateway of this version does"),
    "no JSON": (200, "hello", Exit.FAILED, "not as a cortex gateway of this version does"),
}  # fmt: skip


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize(("status", "body", "code", "says"), ENDINGS.values(), ids=ENDINGS)
def test_an_answer_that_is_none_ends_with_its_exit_code(
    command: str, status: int, body: Any, code: Exit, says: str, cortex: Cortex, answering: Answering
) -> None:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    with answering(status, content) as server:
        ran, as_json = (cortex(command, "--gateway", server.url, *more) for more in ([], ["--json"]))
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("cortex: ")
    assert says in ran.err
    assert (as_json.code, as_json.out) == (code, "")
    error = json.loads(as_json.err)["error"]
    assert says in error["message"]
    assert error["exit_code"] == code


@pytest.mark.parametrize("command", READERS)
def test_without_a_gateway_the_exit_code_is_4(command: str, cortex: Cortex) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert cortex(command, "--gateway", url) == (
        Exit.UNREACHABLE,
        "",
        f"cortex: no gateway at {url}: Connection refused\n",
    )
    ran = cortex(command, "--gateway", url, "--json")
    assert json.loads(ran.err)["error"]["code"] == "unreachable"


def test_a_gateway_that_breaks_off_is_unreachable(cortex: Cortex) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        import threading

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        ran = cortex("ps", "--gateway", f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert ran.code == Exit.UNREACHABLE
    assert "broke off" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"], ["status", "--frobnicate"], ["status", "extra"], ["ps", "--gateway", "127.0.0.1:31313"],
        ["ps", "--gateway", "ftp://h"], ["ps", "--gateway", "http://h:99999"], ["ps", "--gateway", "http://[::1"],
        ["ls", "--gateway"], ["serve", "extra"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_2(arguments: list[str], cortex: Cortex) -> None:
    ran = cortex(*arguments)
    assert (ran.code, ran.out) == (Exit.USAGE, "")
    assert "Error: " in ran.err
    as_json = cortex(*arguments, "--json")
    assert as_json.code == Exit.USAGE
    assert json.loads(as_json.err)["error"]["exit_code"] == Exit.USAGE


def test_version_says_one_line(cortex: Cortex) -> None:
    ran = cortex("version")
    assert ran.code == Exit.OK
    assert ran.out.startswith("cortex ")
    assert ran.out.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("cortex.toml", '[gateway]\nlisen = "x"', "cortex.toml: [gateway] lisen: unknown key; did you mean `listen`?"),
        ("cortex.toml", "[gateway", "cortex.toml: line 1: is not TOML: "),
        (
            "models.toml",
            "[[models]]\nvram = 1",
            "models.toml: [[models]] #1 vram: unknown key; did you mean `vram_mb`?",
        ),
        ("models.toml", "[[models]]\nvram_mb = 1", "models.toml: [[models]] #1 id: is required"),
        ("models.toml", None, "models.toml: cannot be read: No such file or directory"),
        ("cortex.toml", None, "cortex.toml: cannot be read: No such file or directory"),
    ],
)
def test_a_broken_file_stops_serve_with_one_line_and_exit_code_3(
    file: str, text: str | None, says: str, cortex: Cortex, tmp_path: Path
) -> None:
    (tmp_path / "cortex.toml").write_text('models_config = "models.toml"')
    (tmp_path / "models.toml").write_text("")
    (tmp_path / file).unlink() if text is None else (tmp_path / file).write_text(text)
    ran = cortex("serve", "--config", str(tmp_path / "cortex.toml"))
    assert (ran.code, ran.out) == (Exit.CONFIG, "")
    assert ran.err.startswith(f"cortex: {tmp_path}/{says}")
    assert ran.err.count("\n") == 1


def test_serve_without_the_gateway_says_how_to_install_it(
    cortex: Cortex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cortex.toml").write_text("")
    monkeypatch.delitem(sys.modules, "cortex_gateway.main", raising=False)
    monkeypatch.setitem(sys.modules, "cortex_gateway", None)  # what the interpreter does of a module that is not there
    ran = cortex("serve", "--config", str(tmp_path / "cortex.toml"))
    assert (ran.code, ran.out) == (Exit.FAILED, "")
    assert "the gateway is not installed" in ran.err
    assert "./packages/cortex-gateway" in ran.err
