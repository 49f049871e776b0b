"""The end of a request's record: one that was cut short waits a little for what the engine really did.

A cut stream takes its usage with it, for the engine says it last. The neuron tells it all the same, to the gateway
whose request it was (`finished`, neuron-api). Until then, or until `WAIT_S` is over, the record is held back.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Self

from msgspec import Struct

from cortex_core.neuron_api import FinishedEvent
from cortex_gateway.policy.usage import Usage
from cortex_gateway.relay.record import Record

WAIT_S = 5.0
HELD_MOST = 4000  # records; beyond, the oldest goes as it is
EARLY_MOST = 1000  # ends told before ours was seen: of a stream that the engine or an operator cut


class Ends:
    """Passes records on to `on_end`, each once. Leaving the block passes on what is held, as it is."""

    def __init__(self, on_end: Callable[[Record], None]) -> None:
        self._on_end = on_end
        self._held: OrderedDict[str, _Held] = OrderedDict()  # oldest first
        self._early: OrderedDict[str, Usage] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._held:
            self._release()

    def ended(self, record: Record) -> None:
        """A request ended, however."""
        if not (record.at_work and record.code) or (record.usage is not None and not record.usage.estimated):
            self._on_end(record)
            return
        usage = self._early.pop(record.request_id, None)
        if usage is not None:
            record.usage = usage
            self._on_end(record)
            return
        if len(self._held) >= HELD_MOST:
            self._release()
        loop = asyncio.get_running_loop()
        self._held[record.request_id] = _Held(record=record, until=loop.time() + WAIT_S)
        if self._timer is None:
            self._timer = loop.call_later(WAIT_S, self._look)

    def finished(self, event: FinishedEvent) -> None:
        """What a neuron says that a request of ours has used."""
        usage = Usage(event.prompt_tokens, event.cached_tokens, event.completion_tokens)
        held = self._held.pop(event.request_id, None)
        if held is not None:
            held.record.usage = usage
            self._on_end(held.record)
            return
        self._early[event.request_id] = usage
        if len(self._early) > EARLY_MOST:
            self._early.popitem(last=False)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._held:
            left_s = next(iter(self._held.values())).until - loop.time()
            if left_s > 0:
                self._timer = loop.call_later(left_s, self._look)
                return
            self._release()

    def _release(self) -> None:
        _, held = self._held.popitem(last=False)
        self._on_end(held.record)


class _Held(Struct, frozen=True):
    record: Record
    until: float  # on the loop's clock
