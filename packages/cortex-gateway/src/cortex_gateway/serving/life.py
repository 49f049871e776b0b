"""The life of a gateway's process: what ends it, and who is told how it fares."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cortex_core.config import Catalogue, CortexConfig
from cortex_core.config.values import is_loopback
from cortex_core.notify import Notifier

log = logging.getLogger(__name__)

YOUNG_OBJECTS = 50_000
"""So many more made than freed start a collection (CPython's default: 700)."""
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Life:
    """`stop` is set when it shall drain. This one tells nobody."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()

    def started(self, address: str, metrics: str) -> None:
        """It listens on these."""

    def alive(self, status: str) -> None:
        """The loop turns. Called each second, with a line for people."""

    def stopping(self) -> None:
        """It accepts no more, and drains."""

    def ended(self, metrics: bytes) -> None:
        """Everything has been counted: this is the last that can be scraped."""

    def signalled(self) -> None:
        """SIGTERM or SIGINT: the first one asks to stop, the second one ends the process as it would without us."""
        if self.stop.is_set():
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        self.stop.set()


class Service(Life):
    """A process of its own, perhaps under systemd."""

    def __init__(self, config: CortexConfig, catalogue: Catalogue) -> None:
        super().__init__()
        self._config = config
        self._models = f"{len(catalogue.models)} models" if catalogue.models else "what lies there"
        self._notifier = Notifier()

    def started(self, address: str, metrics: str) -> None:
        calm_the_collector()
        neurons, models = len(self._config.neurons), self._models
        scheme = "https" if self._config.tls.certificate else "http"
        log.info(
            "serving %s from %d neurons at %s://%s, metrics at http://%s", models, neurons, scheme, address, metrics
        )
        if not is_loopback(address):
            log.warning("%s is open to everybody who can reach it: there are no API keys", address)
        self._notifier.ready()

    def alive(self, status: str) -> None:
        self._notifier.alive(status)

    def stopping(self) -> None:
        self._notifier.stopping()


@contextmanager
def signals(told: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call `told`."""
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, told)
    try:
        yield
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)


def calm_the_collector() -> None:
    """Requests make no cycles, and die by counting; yet each makes enough objects that the collector, as it comes, ran
    at every few and took a tenth of all time. What is here now stays, so no collection need walk it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
