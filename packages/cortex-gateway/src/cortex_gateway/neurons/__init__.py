"""Every configured neuron, followed each in tasks of its own, and the commands that go to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import aiohttp

from cortex_core.config.cortex import NeuronEntry
from cortex_core.http import Client
from cortex_core.neuron_api import (
    CordonRequest,
    DemandRequest,
    FinishedEvent,
    LoadRequest,
    Operation,
    PinRequest,
    UnloadRequest,
)
from cortex_gateway.neurons.client import session
from cortex_gateway.neurons.follow import Follower, Observe

__all__ = ["Neurons"]


class Neurons:
    """`async with Neurons(...) as neurons:`, and `run` in a task. Implements the dispatcher's `Commands`."""

    def __init__(
        self,
        entries: Iterable[NeuronEntry],
        *,
        gateway: str,
        token: str,
        on_finished: Callable[[FinishedEvent], None] = lambda _: None,
    ) -> None:
        self._entries = tuple(entries)
        self._gateway = gateway
        self._token = token
        self._on_finished = on_finished
        self._kept: aiohttp.ClientSession  # connections that are used again
        self._fresh: aiohttp.ClientSession  # and those that are not
        self._followers: dict[str, Follower] = {}

    async def __aenter__(self) -> Self:
        self._kept = session(self._gateway, self._token)
        self._fresh = session(self._gateway, self._token, fresh=True)
        self._followers = {
            e.name: Follower(e.name, e.endpoint, self._kept, self._fresh, self._on_finished) for e in self._entries
        }
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for follower in self._followers.values():
            await follower.byte_path.close()
        await self._kept.close()
        await self._fresh.close()

    async def run(self, observe: Observe) -> None:
        """Follow them until cancelled; `observe` is told of everything."""
        async with asyncio.TaskGroup() as tasks:
            for follower in self._followers.values():
                tasks.create_task(follower.run(observe), name=f"follow {follower.name}")

    def byte_path(self, neuron: str) -> Client:
        """The pool for requests to a neuron."""
        return self._followers[neuron].byte_path

    def suspect(self, neuron: str) -> None:
        """A connect failed: the neuron is looked at now instead of at the next try."""
        self._followers[neuron].suspect()

    async def load(self, neuron: str, request: LoadRequest) -> Operation:
        return await self._followers[neuron].load(request)

    async def unload(self, neuron: str, request: UnloadRequest) -> Operation:
        return await self._followers[neuron].unload(request)

    async def pin(self, neuron: str, request: PinRequest) -> Operation:
        return await self._followers[neuron].pin(request)

    async def cordon(self, neuron: str, request: CordonRequest, cordoned: bool) -> Operation:
        return await self._followers[neuron].cordon(request, cordoned)

    async def demand(self, neuron: str, request: DemandRequest) -> None:
        await self._followers[neuron].demand(request)
