"""Operations by their ids: a command that is sent again finds its operation instead of doing its work twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Literal

from msgspec import Struct, json

from cortex_core.fleet import Replica
from cortex_core.neuron_api import Operation, Refusal
from neuron.supervisor.refusals import Refused

KEPT_S = 3600.0
KEPT_MOST = 2000  # ended operations; the oldest go first

Kind = Literal["load", "unload", "sleep", "wake", "pin", "cordon"]


class Running:
    """An operation from its begin to its end. The supervisor changes it; callers watch it."""

    __slots__ = (
        "_body",
        "_changed",
        "_clock",
        "_tell",
        "began",
        "ended",
        "error",
        "id",
        "joined",
        "kind",
        "model",
        "phase",
        "progress",
        "status",
        "subject",
    )  # fmt: skip

    def __init__(
        self,
        operation_id: str,
        kind: Kind,
        model: str,
        body: bytes,
        clock: Callable[[], float],
        tell: Callable[[Operation], None],
    ) -> None:
        self.id = operation_id
        self.kind: Kind = kind
        self.model = model
        self.status: Literal["running", "done", "failed", "cancelled"] = "running"
        self.phase = ""
        self.progress = 0.0
        self.joined = False
        self.error: Refusal | None = None
        self.subject: Callable[[], Replica] | None = None  # the replica it is about, as it is now
        self.began = clock()
        self.ended: float | None = None
        self._body = body
        self._clock = clock
        self._tell = tell
        self._changed = asyncio.Event()

    def view(self) -> Operation:
        now = self.ended if self.ended is not None else self._clock()
        return Operation(
            id=self.id,
            kind=self.kind,
            status=self.status,
            model=self.model,
            phase=self.phase,
            progress=self.progress,
            seconds=round(now - self.began, 3),
            replica=self.subject() if self.subject else None,
            joined=self.joined,
            error=self.error,
        )

    def step(self, phase: str, progress: float) -> None:
        if self.ended is None:
            self.phase, self.progress = phase, progress
            self._wake()

    def finish(self, error: Refusal | None = None) -> None:
        """End it; an operation that has ended stays as it ended."""
        if self.ended is not None:
            return
        self.error = error
        self.status = "done" if error is None else "cancelled" if error.code == "cancelled" else "failed"
        self.progress = 1.0 if error is None else self.progress
        self.ended = self._clock()
        self._wake()

    async def watch(self) -> AsyncIterator[Operation]:
        """The operation as it is now, then after each change (changes that come together count as one), to its end."""
        while True:
            changed, last = self._changed, self.ended is not None
            yield self.view()
            if last:
                return
            await changed.wait()

    async def wait(self, deadline_s: float = 0.0) -> None:
        """Until it has ended.

        Raises:
            Refused: `deadline`: the caller's time is over (0: never); the operation goes on.
        """
        try:
            async with asyncio.timeout(deadline_s or None):
                while self.ended is None:
                    await self._changed.wait()
        except TimeoutError as error:
            details = {"operation_id": self.id, "phase": self.phase, "progress": self.progress}
            text = f"it goes on: {self.phase or 'begun'} after {deadline_s:g} s"
            raise Refused("deadline", text, details=details) from error

    def _wake(self) -> None:
        self._tell(self.view())
        self._changed.set()
        self._changed = asyncio.Event()

    def same(self, body: bytes) -> bool:
        return self._body == body


class Operations:
    """All operations of the last hour."""

    def __init__(self, clock: Callable[[], float], tell: Callable[[Operation], None]) -> None:
        self._clock = clock
        self._tell = tell
        self._known: dict[str, Running] = {}
        self._made = 0

    def begin(
        self, operation_id: str, kind: Kind, model: str, request: Struct, variant: str = ""
    ) -> tuple[Running, bool]:
        """The operation of this id, and whether it is new.

        Raises:
            Refused: `bad_request`, when the id stood for another command before.
        """
        body = f"{kind} {variant} ".encode() + json.encode(request)
        self._prune()
        if found := self._known.get(operation_id):
            if not found.same(body):
                raise Refused("bad_request", "this operation_id stood for another command", field="operation_id")
            return found, False
        if not operation_id:
            self._made += 1
            operation_id = f"own-{self._made}"
        running = Running(operation_id, kind, model, body, self._clock, self._tell)
        self._known[operation_id] = running
        return running, True

    def forget(self, running: Running) -> None:
        """A command that was refused before it did anything leaves no trace: sent again, it is judged again."""
        self._known.pop(running.id, None)

    def get(self, operation_id: str) -> Running:
        """Raises Refused (`not_found`) for an id that is unknown or too old."""
        self._prune()
        if operation_id not in self._known:
            raise Refused("not_found", f"no operation {operation_id[:64]} here since the last start", field="id")
        return self._known[operation_id]

    def _prune(self) -> None:
        limit = self._clock() - KEPT_S
        ended = [running for running in self._known.values() if running.ended is not None]
        surplus = len(ended) - KEPT_MOST
        for index, running in enumerate(ended):
            if index < surplus or (running.ended is not None and running.ended < limit):
                del self._known[running.id]
