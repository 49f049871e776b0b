"""Requests by their ids: none is executed twice, and each one's usage finds the gateway it came from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from cortex_core.neuron_api import FinishedEvent
from neuron.engines.base import Finished
from neuron.supervisor.refusals import Refused

REMEMBERED_S = 600.0  # after a request's end
REMEMBERED_MOST = 20_000  # some 6 MB


class Executed:
    """One request that was let through to an engine."""

    __slots__ = ("began", "ended", "gateway", "id", "model", "told")

    def __init__(self, request_id: str, gateway: str, model: str, began: float) -> None:
        self.id, self.gateway, self.model, self.began = request_id, gateway, model, began
        self.ended: float | None = None
        self.told = False  # whether its usage was passed on


class Requests:
    """What ran in the last ten minutes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._running: dict[str, Executed] = {}
        self._ended: OrderedDict[str, Executed] = OrderedDict()  # the first to be forgotten stands first

    def begin(self, request_id: str, gateway: str, model: str) -> Executed:
        """Note that a request is now executed.

        Raises:
            Refused: `duplicate`, when that id runs or ran.
        """
        self.check(request_id)
        request = Executed(request_id, gateway, model, self._clock())
        self._running[request_id] = request
        return request

    def check(self, request_id: str) -> None:
        """Raises Refused (`duplicate`) for an id that runs or ran: before its body is read, and again after."""
        self._forget()
        if earlier := self._running.get(request_id) or self._ended.get(request_id):
            how = "runs" if earlier.ended is None else "has ended"
            raise Refused("duplicate", f"request {request_id} {how} already", executed="yes")

    def end(self, request: Executed) -> None:
        request.ended = self._clock()
        if self._running.pop(request.id, None) is not None:
            self._ended[request.id] = request

    def cancel(self, request: Executed) -> None:
        """It was not executed after all: its id may come again."""
        self._running.pop(request.id, None)

    def finished(self, finished: Finished, seq: int) -> FinishedEvent | None:
        """What the engine said of a request, for its gateway; None for one that is not ours or was told already."""
        request = self._running.get(finished.request_id) or self._ended.get(finished.request_id)
        if request is None or request.told:
            return None
        request.told = True
        return FinishedEvent(
            seq=seq,
            gateway=request.gateway,
            request_id=request.id,
            model=request.model,
            prompt_tokens=finished.prompt_tokens,
            cached_tokens=finished.cached_tokens,
            completion_tokens=finished.completion_tokens,
            outcome=finished.outcome,
            seconds=round((request.ended or self._clock()) - request.began, 4),
        )

    def _forget(self) -> None:
        limit = self._clock() - REMEMBERED_S
        while self._ended:
            request = next(iter(self._ended.values()))
            if len(self._ended) <= REMEMBERED_MOST and request.ended is not None and request.ended > limit:
                return
            self._ended.popitem(last=False)
