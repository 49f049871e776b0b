"""`run.py demo`: the shown run. Each step is a promise that is checked, not only printed."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import tempfile
import textwrap
import time
from pathlib import Path

from tools.runner import client
from tools.runner.children import Children
from tools.runner.client import Answer, BadAnswer
from tools.runner.demo_fleet import MARK, Fleet, Ports, kill_leftovers, leftovers, until
from tools.runner.environment import variables
from tools.runner.report import say, step
from tools.tinymodel.fleet import ANSWERS, MODELS, QUESTION

METRICS_S = 10.0  # a record is written when the neuron has told the exact usage, at most 5 s later
GONE_S = 5.0
SHOWN = 30  # characters of an answer
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def run(python: Path, ports: Ports, *, engine: str, once: bool) -> int:
    """Show everything, then stay until Ctrl-C unless `once`. Exit code 0: every step held."""
    if taken := ports.taken():
        say(f"Taken by another program: port {', '.join(map(str, taken))}. Choose others, e.g. --port-base 41000.")
        return 1
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="cortex-", dir="/tmp"))  # short: it holds sockets
    held = False
    try:
        with Children(folder, _environment(folder)) as children:
            fleet = Fleet(folder, ports, engine, python, children)
            _title(fleet)
            fleet.start()
            _Shown(fleet, python).all()
            say(f"\nEvery step held, {time.monotonic() - started:.0f} s in all.")
            if not once:
                _stay(fleet)
            with step("everything that was started has ended"):
                children.stop()
                _check_gone(folder)
        held = True
        return 0
    except (BadAnswer, OSError, http.client.HTTPException) as error:
        say(f"\n{type(error).__name__}: {error}\nLogs: {folder}")
        return 1
    except KeyboardInterrupt:
        held = True
        raise
    finally:
        kill_leftovers(folder)
        if held:
            shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of the user's own cortex may configure the demo's."""
    kept = {name: value for name, value in variables().items() if not name.startswith(("CORTEX_", "NEURON_"))}
    return kept | {MARK: str(folder), "OMP_NUM_THREADS": "1"}


def _title(fleet: Fleet) -> None:
    if fleet.simulated:
        say("\nThe fleet, with SIMULATED engines: no model computes what follows, marked [simulated]")
    else:
        say("\nThe fleet, with real vLLM engines on this machine's CPU")


class _Shown:
    """The steps, in order. Each raises BadAnswer when its promise is broken."""

    def __init__(self, fleet: Fleet, python: Path) -> None:
        self._fleet, self._python = fleet, python
        self._mark = " [simulated]" if fleet.simulated else ""
        self._beast, self._benjy, self._third = MODELS
        self._requests = 0

    def all(self) -> None:
        say("\nThe shown run")
        self._list_models()
        self._cold()
        self._other_host()
        self._evicts()
        self._warm()
        self._calls_tool()
        self._status()
        self._metrics()

    def _list_models(self) -> None:
        with step("list the models") as line:
            models = self._fleet.models()
            _expect({model["id"] for model in models} == set(MODELS), f"the catalogue is {models}")
            for model in models:
                _expect(set(model["feasible_on"]) == {"beast", "benjy"}, f"{model['id']} fits {model['feasible_on']}")
                _expect(model["locations"] == [], f"{model['id']} is loaded before anyone asked")
            line.detail = f"{', '.join(MODELS)}; none loaded, each would fit either host"

    def _cold(self) -> None:
        with step(f'"{QUESTION}" to {self._beast}, cold{self._mark}') as line:
            answer = self._ask(self._beast)
            line.detail = f"{_told(answer)}, on {self._only_host(self._beast)}"

    def _other_host(self) -> None:
        with step(f'"{QUESTION}" to {self._benjy}, cold{self._mark}') as line:
            answer = self._ask(self._benjy)
            host, other = self._only_host(self._benjy), self._only_host(self._beast)
            _expect(host != other, f"both models are on {host}")
            line.detail = f"{_told(answer)}, on the other host, {host}"

    def _evicts(self) -> None:
        with step(f'"{QUESTION}" to {self._third}, cold{self._mark}') as line:
            before = self._only_host(self._beast)
            answer = self._ask(self._third)
            until(lambda: self._fleet.where(self._beast) == [], GONE_S, f"{self._beast} to leave")
            host = self._only_host(self._third)
            _expect(host == before, f"{self._third} is on {host}, though {before} held the least recently used model")
            line.detail = f"{_told(answer)}, on {host}, which {self._beast} left for it"

    def _warm(self) -> None:
        with step(f"the same chat again, warm{self._mark}") as line:
            answer = self._ask(self._third)
            line.detail = _told(answer)

    def _calls_tool(self) -> None:
        with step(f"a tool call{self._mark}") as line:
            self._requests += 1
            body = {
                "model": self._third,
                "messages": [{"role": "user", "content": "Weather in Paris?"}],
                "tools": [WEATHER],
                "temperature": 0,
                "max_tokens": 64,
            }
            choice = client.post(self._fleet.ports.gateway, "/v1/chat/completions", body)["choices"][0]
            calls = [call["function"] for call in choice["message"].get("tool_calls") or []]
            _expect(len(calls) == 1 and calls[0]["name"] == "get_weather", f"no call of get_weather: {choice}")
            _expect(choice["finish_reason"] == "tool_calls", f"finish_reason {choice['finish_reason']}")
            if not self._fleet.simulated:
                _expect("Paris" in calls[0]["arguments"], f"called with {calls[0]['arguments']}")
            line.detail = f'"Weather in Paris?" → {calls[0]["name"]}({calls[0]["arguments"]})'

    def _status(self) -> None:
        with step("cortex status"):
            gateway = f"http://127.0.0.1:{self._fleet.ports.gateway}"
            command = [str(self._python.parent / "cortex"), "status", "--gateway", gateway]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=variables(), check=False)
            _expect(done.returncode == 0, f"cortex status ended with {done.returncode}: {done.stderr}")
            for word in ("beast", "benjy", self._third):
                _expect(word in done.stdout, f"cortex status does not show {word}:\n{done.stdout}")
        say("\n".join(f"      {line}" for line in done.stdout.rstrip().splitlines()))

    def _metrics(self) -> None:
        with step("the metrics that count all this") as line:
            wanted = {
                "cortex_requests_total": self._requests,
                "cortex_cold_starts_total": 3,
                "cortex_evictions_total": 1,
            }
            until(
                lambda: self._sums(wanted) == wanted, METRICS_S, f"the metrics to say {wanted}", self._fleet.check_alive
            )
            tokens = self._sums({"cortex_prompt_tokens_total": 0, "cortex_completion_tokens_total": 0})
            _expect(all(tokens.values()), f"no tokens counted: {tokens}")
            ttft = self._sums({"cortex_time_to_first_token_seconds_count": 0})
            _expect(all(ttft.values()), f"no first token measured: {ttft}")
            line.detail = f"{self._requests} requests, 3 cold starts, 1 eviction, {int(sum(tokens.values()))} tokens"

    def _sums(self, names: dict[str, int]) -> dict[str, float]:
        """Each metric over all its labels."""
        lines = client.get(self._fleet.ports.metrics, "/metrics").splitlines()
        samples = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {
            name: sum(float(value) for series, value in samples if series.partition("{")[0] == name) for name in names
        }

    def _ask(self, model: str) -> Answer:
        """Ask who it is: each model has a word of its own, so an answer from the wrong one is seen."""
        self._requests += 1
        answer = client.chat(self._fleet.ports.gateway, model, QUESTION)
        if self._fleet.simulated:
            _expect(answer.text.startswith(model), f"{model} answered {answer.text!r}")
            _expect(answer.headers.get("x-cortex-simulated") == "true", "an answer does not say that it is simulated")
        else:
            _expect(answer.text == ANSWERS[model], f"{model} answered {answer.text!r} instead of {ANSWERS[model]!r}")
        _expect(answer.usage.get("completion_tokens", 0) > 0, f"usage {answer.usage}")
        return answer

    def _only_host(self, model: str) -> str:
        hosts: list[str] = []

        def known() -> bool:
            hosts[:] = self._fleet.where(model)
            return len(hosts) == 1

        until(known, GONE_S, f"{model} to be ready on one host")
        return hosts[0]


def _told(answer: Answer) -> str:
    text = textwrap.shorten(answer.text, SHOWN)
    return f'"{text}", first token after {answer.ttft_s:.2f} s'


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadAnswer(otherwise)


def _stay(fleet: Fleet) -> None:
    """Until Ctrl-C, or until something dies that should not."""
    gateway, metrics = fleet.ports.gateway, fleet.ports.metrics
    message = f'{{"role": "user", "content": "{QUESTION}"}}'
    body = f'{{"model": "{next(iter(MODELS))}", "stream": true, "messages": [{message}]}}'
    try:
        say(f"""
Try it{" (simulated engines)" if fleet.simulated else ""}:
  curl -s http://127.0.0.1:{gateway}/v1/models
  curl -N http://127.0.0.1:{gateway}/v1/chat/completions -H 'content-type: application/json' -d '{body}'
  curl -s http://127.0.0.1:{metrics}/metrics
  tail -f {fleet.folder}/*.log

Ctrl-C ends everything.""")
        while True:
            fleet.check_alive()
            time.sleep(0.5)
    except KeyboardInterrupt:
        say()


def _check_gone(folder: Path) -> None:
    """No process, and no socket."""
    until(lambda: leftovers(folder) == [], GONE_S, f"processes to end: {leftovers(folder)}")
    sockets = [path for path in folder.rglob("*") if path.is_socket()]
    _expect(sockets == [], f"sockets were left: {sockets}")
