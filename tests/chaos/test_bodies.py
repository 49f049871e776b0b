"""Nothing that a body holds ends in a 500, and none stops the others: fuzzed bodies, and the largest there may be."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from typing import Any

import msgspec

from cortex_core.http import ASGIApp, Message
from tests.chaos.bodies import FORM, LARGE, PATHS, spoilt
from tests.chaos.stage import Stage, staged
from tests.support.figures import Figures, percentile
from tests.support.gateway import TINY, gateway, without_neurons
from tests.support.process import ROOT, environment
from tests.support.scale import scaled
from tests.support.scripted import ANSWER, ScriptedNeuron, says
from tests.support.wire import request

LAG_EVERY_S = 0.001
TOLD = {200, 400, 404, 413, 503, 529}


async def ask(app: ASGIApp, path: str, body: bytes) -> tuple[int, bytes]:
    """One request, without a socket."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "scheme": "http", "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 31313),
        "headers": [(b"host", b"localhost"), (b"content-length", b"%d" % len(body))],
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def check(path: str, body: bytes, status: int, answer: bytes) -> None:
    assert status in TOLD, (path, body)
    if status != 200:
        error = msgspec.json.decode(answer)["error"]
        assert error["message"], (path, body)


async def test_goal_R60_no_fuzzed_body_ends_in_a_500(figures: Figures) -> None:
    many = scaled(100_000, 10**6)
    choose = random.Random(scaled(1, 2))
    statuses: Counter[int] = Counter()
    with without_neurons() as app:
        for _ in range(many):
            path, body = spoilt(choose)
            status, answer = await ask(app, path, body)
            check(path, body, status, answer)
            statuses[status] += 1
    assert set(statuses) >= {400, 404, 503, 529}  # refused, of no known model, and let in
    figures.add("R60", "fuzzed bodies, in process", "0 × 500 of 10^6", f"0 of {many:,} ({told(statuses)})")


async def test_goal_R60_nor_one_over_a_socket(figures: Figures) -> None:
    many, lines = scaled(600, 100_000), 8
    statuses: Counter[int] = Counter()
    async with staged() as stage:

        async def one(seed: int) -> None:
            choose = random.Random(seed)
            for _ in range(many // lines // 50):
                await asks(stage, choose, statuses)

        async with asyncio.TaskGroup() as group:
            for seed in range(lines):
                group.create_task(one(seed))
        assert "unhandled" not in stage.gateway.log
    assert 500 not in statuses
    figures.add("R60", "fuzzed bodies, over sockets", "0 × 500 of 10^5", f"0 of {sum(statuses.values()):,}")


async def asks(stage: Stage, choose: random.Random, statuses: Counter[int]) -> None:
    """Fifty over one connection, by length or in chunks: it is kept, whatever the bodies are."""
    async with stage.client() as client:
        for _ in range(50):
            path, body = spoilt(choose)
            if choose.random() < 0.5 and body:
                head = f"POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
                await client.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            else:
                await client.send(request("POST", path, body))
            answer = await client.answer(timeout_s=30)
            if answer.headers.get("content-type") == "application/json":
                check(path, body, answer.status, answer.body)
            statuses[answer.status] += 1


def told(statuses: Counter[int]) -> str:
    return ", ".join(f"{count:,} × {status}" for status, count in sorted(statuses.items()))


# --- F51: odd JSON, one by one

HEAD = b'{"model":"tiny","messages":[{"role":"user","content":"a"}]'
REFUSED = {
    "NaN": HEAD + b',"temperature":NaN}',
    "Infinity": HEAD + b',"temperature":Infinity}',
    "a bound that is no integer": HEAD + b',"max_tokens":1e400}',
    "a number beyond all": HEAD + b',"temperature":1e999}',
    "also where nobody knows the field": HEAD + b',"warmth":1e999}',
    "an integer of 400 digits": HEAD + b',"seed":' + b"9" * 400 + b"}",
    "an integer of 65 bits": HEAD + b',"seed":9223372036854775808}',
    "an integer of 400 digits beside what is looked at": HEAD + b',"n":1,"seed":' + b"9" * 400 + b"}",
    "deep lists": HEAD + b',"stop":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep content": b'{"model":"tiny","messages":[{"role":"user","content":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
    "a byte order mark": b"\xef\xbb\xbf" + HEAD + b"}",
    "UTF-16": (HEAD + b"}").decode().encode("utf-16"),
    "two objects": HEAD + b"}{}",
    "words behind it": HEAD + b"} x",
    "a comma too many": HEAD + b",}",
    "single quotes": (HEAD + b"}").replace(b'"', b"'"),
    "a comment": HEAD + b"/* */}",
    "a raw NUL": HEAD.replace(b'"a"', b'"\0"') + b"}",
    "a raw line break in a string": HEAD.replace(b'"a"', b'"\n"') + b"}",
    "an encoded surrogate": HEAD.replace(b'"a"', b'"\xed\xa0\x80"') + b"}",
    "not UTF-8": HEAD.replace(b'"a"', b'"\xff"') + b"}",
    "a list": b"[" + HEAD + b"}]",
    "a string": b'"tiny"',
    "nothing": b"",
    "null": b"null",
}
READ = {
    "the smallest number, which is none": (HEAD + b',"temperature":1e-999}', b"1e-999", 1),
    "the largest integer": (HEAD + b',"seed":9223372036854775807}', b"9223372036854775807", 1),
    "a model given twice": (HEAD + b',"model":"tiny","model":"tiny"}', b'"model"', 1),
    "also in other letters": (b'{"mod\\u0065l":"nobody",' + HEAD[1:] + b"}", b'"nobody"', 0),
    "half a surrogate pair": (HEAD.replace(b'"a"', b'"\\ud800"') + b"}", b"\\ufffd", 1),
    "the other half": (HEAD.replace(b'"a"', b'"\\udc00x"') + b"}", b"\\ufffd", 1),
    "a whole pair": (HEAD.replace(b'"a"', b'"\\ud83d\\ude00"') + b"}", b"\\ud83d\\ude00", 1),
    "an escaped backslash before a u": (HEAD.replace(b'"a"', b'"\\\\ud800"') + b"}", b"\\\\ud800", 1),
}


async def test_rule_F51_odd_json_is_refused_or_read_as_engines_read_it() -> None:
    async with ScriptedNeuron("beast") as beast, gateway([beast], [TINY]) as running:
        beast.ready("tiny")
        beast.answers = says(ANSWER)
        await running.up("beast")
        for case, body in REFUSED.items():
            got = await running.ask("POST", "/v1/chat/completions", body)
            assert (got.status, bool(got.error["message"])) == (400, True), case
        assert beast.asked == []
        for case, (body, mark, count) in READ.items():
            got = await running.ask("POST", "/v1/chat/completions", body)
            assert got.status == 200, (case, got.body)
            assert beast.asked.pop().body.count(mark) == count, case


# --- R61


async def lag(times: list[float]) -> None:
    """How much later than asked the loop comes back, again and again."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        times.append(loop.time() - due)


async def test_goal_R61_hostile_bodies_stop_nobody(figures: Figures) -> None:
    """The largest bodies come from another process while the loop that serves them is watched from inside."""
    names = list(LARGE) if scaled(0, 1) else ["half surrogate pairs", "a million keys", "messages"]
    times: list[float] = []
    async with ScriptedNeuron("beast") as beast, gateway([beast], [TINY], max_held_mb=512) as running:
        beast.ready("tiny")
        beast.answers = says(ANSWER)
        await running.up("beast")
        watching = asyncio.get_running_loop().create_task(lag(times))
        command = [sys.executable, "-m", "tests.chaos.bodies", running.address, str(scaled(4, 32)), *names]
        sender = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environment({"PYTHONPATH": str(ROOT)}), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await sender.communicate()
        watching.cancel()
    results = [json.loads(line) for line in out.splitlines()]
    assert len(results) == len(names) * len(PATHS) + 1
    assert {status for _, _, status, _ in results} <= TOLD
    assert all(status == 200 for name, _, status, _ in results if name in ("messages", FORM))
    p999, worst = percentile(times, 0.999), max(times)
    slowest = max(results, key=lambda result: result[3])
    figure = f"p99.9 {p999 * 1000:.0f} ms, max {worst * 1000:.0f} ms of {len(times):,} looks; the slowest body "
    figure += f"({slowest[0]}) took {slowest[3]:.1f} s"
    figures.add("R61", f"loop lag beside {len(results)} bodies of up to 32 MiB", "p99.9 ≤ 50 ms, max ≤ 100 ms", figure)
    assert p999 <= scaled(2000, 50) / 1000
