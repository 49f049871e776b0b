"""The shared token between gateway and neurons: who lacks it is told which setting is missing, and nothing else."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest

from tests.support.chat import chatting
from tests.support.daemons import NeuronProcess
from tests.support.host import Host, fleet
from tests.support.until import until

TOKEN = "shared-between-the-hosts"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with fleet() as one:
        yield one


@pytest.fixture(scope="module")
def guarded(host: Host) -> NeuronProcess:
    token = host.folder / "token"
    token.write_text(TOKEN + "\n")
    return host.neuron("guarded", sim={"load_s": 0.05}, neuron_table={"token_file": str(token)})


def ask(neuron: NeuronProcess, method: str, path: str, token: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", neuron.port, timeout=5)
    try:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, body=b"{}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


CALLS = [
    ("GET", "/models"), ("GET", "/events"), ("GET", "/discovery"), ("POST", "/models/load"), ("POST", "/models/unload"),
    ("POST", "/cordon"), ("POST", "/demand"), ("POST", "/v1/chat/completions"), ("GET", "/v1/models"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CALLS, ids=str)
@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1]], ids=["none", "wrong", "longer", "shorter"])
def test_without_the_token_every_call_is_401_and_names_the_setting(
    guarded: NeuronProcess, method: str, path: str, token: str
) -> None:
    status, said = ask(guarded, method, path, token)
    assert status == 401, said
    error = json.loads(said)["error"]
    assert error["code"] == "unauthorized"
    assert "token" in error["message"]
    assert TOKEN not in said


async def test_a_gateway_with_the_token_is_served_and_one_without_says_what_is_missing(
    host: Host, guarded: NeuronProcess
) -> None:
    models = [{"id": "tiny", "vram_mb": 100}]
    knows = host.gateway([guarded], models, name="knows", tables={"fleet": {"token_file": str(host.folder / "token")}})
    async with chatting(knows.url) as chat:
        assert (await chat.ask("tiny", max_tokens=2)).clean

    lacks = host.gateway([guarded], models, name="lacks", follows=0, tables={"gateway": {"hold_s": 0.5}})
    [view] = until(lambda: [n for n in lacks.fleet()["neurons"] if n["problem"]], what="a problem in its picture")
    assert not view["up"]
    assert "token" in view["problem"]
    async with chatting(lacks.url) as chat:
        answer = await chat.ask("tiny")
    assert answer.status == 503
    assert TOKEN not in host.logs()
