"""A connection that others can sever."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Broken(Exception):
    """The connection ended before the answer did.

    Args:
        begun: the first token had been sent.
    """

    def __init__(self, *, begun: bool = False) -> None:
        super().__init__("the connection broke")
        self.begun = begun


class Connection:
    """`async with`: what happens inside ends with Broken when the connection is severed, or at `until`.

    Args:
        open_ones: where it stands as long as it is open.
    """

    __slots__ = ("_end", "_open_ones")

    def __init__(self, open_ones: dict[Connection, None], until: float | None = None) -> None:
        self._open_ones = open_ones
        self._end = asyncio.timeout_at(until)

    @property
    def was_severed(self) -> bool:
        return self._end.expired()

    def sever(self) -> None:
        if not self._end.expired():
            self._end.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> None:
        self._open_ones[self] = None
        await self._end.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._open_ones[self]
        try:
            await self._end.__aexit__(kind, error, trace)
        except TimeoutError:
            raise Broken from None
