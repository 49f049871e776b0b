"""A client in a process of its own that streams one answer after another and notes when tokens come.

In the test's own process everything else that the test does would count as a gap.

    with listening(neuron.port, replica.id, replica.model) as heard:
        ...
    assert max(heard.between(began, ended)) < 0.1
"""

from __future__ import annotations

import http.client
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.daemons import LOOPBACK
from tests.support.process import ROOT, environment

TOKENS = 1000  # of an answer
END = b"data: [DONE]"
READY = "ready"


@dataclass
class Heard:
    """What was heard; complete once the context has ended."""

    gaps: list[tuple[float, float]] = field(default_factory=list)  # when it ended (time.monotonic), how long it was
    errors: list[str] = field(default_factory=list)  # answers that did not come to a clean end

    def between(self, began: float, ended: float) -> list[float]:
        """The gaps that reach into a span of time."""
        return [gap_s for at, gap_s in self.gaps if at >= began and at - gap_s <= ended]


@contextmanager
def listening(port: int, replica: str, model: str) -> Iterator[Heard]:
    heard = Heard()
    command = [sys.executable, "-m", "tests.support.gaps", str(port), replica, model]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment(), cwd=ROOT, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline().strip() == READY
            yield heard
            found = json.loads(process.communicate("\n", timeout=30)[0])
        finally:
            process.kill()
    heard.gaps += [(at, gap_s) for at, gap_s in found["gaps"]]
    heard.errors += found["errors"]


def _listen(port: int, replica: str, model: str) -> Heard:
    """Until something stands on stdin."""
    heard = Heard()
    asked = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        asked += 1
        message = {"role": "user", "content": "Who are you?"}
        body = {"model": model, "messages": [message], "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
        headers = {"x-cortex-request-id": f"gaps-{replica}-{asked}-{time.time()}", "x-cortex-replica": replica}
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            answer = connection.getresponse()
            last_words = _tokens(answer, heard) if answer.status == 200 else answer.read()
        except (OSError, http.client.HTTPException) as error:
            last_words = repr(error).encode()
        finally:
            connection.close()
        if END not in last_words:
            heard.errors.append(last_words[-500:].decode(errors="replace"))
        if asked == 1:
            print(READY, flush=True)  # noqa: T201 - to `listening`
    return heard


def _tokens(answer: http.client.HTTPResponse, heard: Heard) -> bytes:
    """Read an answer as it comes; returns its end."""
    last, said = 0.0, b""
    while data := answer.read1(65536):
        now = time.monotonic()
        if last:
            heard.gaps.append((now, now - last))
        last, said = now, said[-len(END) :] + data
    return said


if __name__ == "__main__":
    found = _listen(int(sys.argv[1]), *sys.argv[2:])
    print(json.dumps({"gaps": found.gaps, "errors": found.errors}))  # noqa: T201 - to `listening`
