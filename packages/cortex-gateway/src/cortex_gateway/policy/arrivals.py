"""The oldest of those who come and go."""

from __future__ import annotations

from collections import Counter
from heapq import heapify, heappop, heappush

SLACK = 64  # entries of those who left that may stay; beyond as many as are here, all are dropped


class Arrivals:
    """Times of arrival, each as often as it was added: the least is at hand, whoever leaves meanwhile."""

    __slots__ = ("_gone", "_heap", "_size")

    def __init__(self) -> None:
        self._heap: list[float] = []
        self._gone: Counter[float] = Counter()  # left, and still in the heap
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, arrived: float) -> None:
        heappush(self._heap, arrived)
        self._size += 1

    def remove(self, arrived: float) -> None:
        """One that was added."""
        self._size -= 1
        self._gone[arrived] += 1
        heap, gone = self._heap, self._gone
        while heap and heap[0] in gone:
            self._drop(heappop(heap))
        if len(heap) > 2 * self._size + SLACK:
            self._heap = list((Counter(heap) - gone).elements())
            heapify(self._heap)
            gone.clear()

    def oldest(self) -> float:
        """There must be one."""
        return self._heap[0]

    def _drop(self, arrived: float) -> None:
        self._gone[arrived] -= 1
        if not self._gone[arrived]:
            del self._gone[arrived]
