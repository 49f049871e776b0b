"""The process: what a signal does to requests under way, and what a bug in the background does to the process."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from cortex_core.config import Catalogue, ConfigError, CortexConfig
from cortex_core.config.cortex import Gateway, Tls
from cortex_core.fleet import Profile
from cortex_core.http import ConnectFailed, address_of, bind
from cortex_gateway.dispatch.dispatcher import Dispatcher
from cortex_gateway.serving import server
from cortex_gateway.serving.life import Life
from tests.support.gateway import TINY, Got, Running, gateway
from tests.support.scripted import HELLO, USAGE, ScriptedNeuron, streams
from tests.support.until import until_async

FILES = Path(__file__).parents[1] / "support" / "tls"
WHOLE = b"".join(event for event in HELLO if event != USAGE)


@pytest.fixture
async def beast() -> AsyncIterator[ScriptedNeuron]:
    async with ScriptedNeuron("beast") as neuron:
        neuron.ready("tiny", profile=TINY)
        yield neuron


async def halfway(running: Running, beast: ScriptedNeuron, go_on: asyncio.Event) -> asyncio.Task[Got]:
    """A stream whose first event has come."""
    await running.up("beast")
    beast.answers = streams(*HELLO, pause=go_on.wait)
    asking = asyncio.get_running_loop().create_task(running.chat(stream=True))

    async def counted() -> bool:
        return await running.metric("cortex_neuron_up") == 1 and beast.running == 1

    await until_async(counted)
    return asking


async def test_goal_R40_a_stop_lets_answers_end(beast: ScriptedNeuron) -> None:
    go_on = asyncio.Event()
    async with gateway([beast], [TINY], drain_s=10.0) as running:
        asking = await halfway(running, beast, go_on)
        os.kill(os.getpid(), signal.SIGTERM)

        async def refused() -> bool:
            try:
                return (await running.ask("GET", "/health")).status == 0
            except ConnectFailed:
                return True

        await until_async(refused)
        go_on.set()
        got = await asking
        await running.task
    assert (got.whole, got.body) == (True, WHOLE)


async def test_a_stream_that_outlasts_the_drain_is_told_so(beast: ScriptedNeuron) -> None:
    async with gateway([beast], [TINY], drain_s=0.2) as running:
        asking = await halfway(running, beast, asyncio.Event())
        os.kill(os.getpid(), signal.SIGTERM)
        got = await asking
        await running.task
    assert not got.whole
    assert got.body.startswith(HELLO[0])
    assert b'"code":"shutting_down"' in got.body
    await until_async(lambda: beast.running == 0)


async def test_who_waits_when_it_stops_is_told_to_come_again(beast: ScriptedNeuron) -> None:
    never = asyncio.Event()

    async def load(_: object) -> None:
        await never.wait()

    beast.load = load
    async with gateway([beast], [TINY, Profile(id="cold", vram_mb=1000)], drain_s=0.2) as running:
        await running.up("beast")
        asking = asyncio.get_running_loop().create_task(running.chat("cold"))
        await until_async(lambda: beast.loads)
        os.kill(os.getpid(), signal.SIGTERM)
        got = await asking
        await running.task
    assert got.status == 503
    never.set()


async def test_F20_who_leaves_while_it_waits_leaves_nothing_behind(beast: ScriptedNeuron) -> None:
    go_on = asyncio.Event()

    async def load(_: object) -> None:
        await go_on.wait()

    beast.load = load
    model = Profile(id="cold", vram_mb=1000)
    async with gateway([beast], [TINY, model]) as running:
        await running.up("beast")
        asking = asyncio.get_running_loop().create_task(running.chat("cold"))
        await until_async(lambda: beast.loads)
        asking.cancel()

        async def nobody_waits() -> bool:
            return (await running.fleet()).waiting == {}

        await until_async(nobody_waits)
        go_on.set()

        async def loaded() -> bool:
            return await running.metric("cortex_model_state", model="cold", state="ready") == 1

        await until_async(loaded)  # the load went on: it is worth keeping
        assert beast.asked == []
        assert await running.metric("cortex_client_disconnects_total", model="cold") == 1


async def test_a_bug_in_the_background_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Dispatcher) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Dispatcher, "_tick", broken)
    config = CortexConfig(gateway=Gateway(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0"))
    with pytest.raises(ExceptionGroup) as caught:
        await server.serve(config, Catalogue(), Life())
    assert caught.group_contains(ZeroDivisionError)


async def test_an_address_that_is_taken_is_named() -> None:
    with bind("127.0.0.1:0") as taken:
        address = address_of(taken)
        with pytest.raises(OSError, match=f"cannot listen on {address}: "):
            await server.serve(CortexConfig(gateway=Gateway(listen=address)), Catalogue(), Life())


async def test_with_a_certificate_clients_are_served_over_tls(beast: ScriptedNeuron) -> None:
    tls = Tls(certificate=str(FILES / "certificate.pem"), key=str(FILES / "key.pem"))
    trust = ssl.create_default_context(cafile=tls.certificate)
    async with gateway([beast], [TINY], tls=tls) as running, aiohttp.ClientSession() as session:

        async def chatted() -> bytes:
            body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}
            url = f"https://{running.address}/v1/chat/completions"
            async with session.post(url, json=body, ssl=trust) as answer:
                return await answer.read()

        async def up() -> bool:
            return await running.metric("cortex_neuron_up") == 1

        await until_async(up)
        assert await chatted() == WHOLE


async def test_a_certificate_that_cannot_be_used_is_named() -> None:
    tls = Tls(certificate=str(FILES / "certificate.pem"), key=str(FILES / "encrypted.pem"))
    config = CortexConfig(gateway=Gateway(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0"), tls=tls)
    with pytest.raises(ConfigError, match="encrypted"):
        await server.serve(config, Catalogue(), Life())
