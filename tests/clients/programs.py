"""The coding agents as a person runs them without a terminal, each in a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BIN = Path(os.environ.get("CLIENTS", "")) / "node_modules" / ".bin"
PLAIN = {
    "PATH": os.environ.get("PATH", ""),
    "LANG": "C.UTF-8",
    "NO_COLOR": "1",
    "TERM": "dumb",
}
"""What of our own environment they get."""


@dataclass
class Said:
    """What a program did."""

    code: int
    out: str
    err: str
    seconds: float
    events: list[dict[str, Any]] = field(default_factory=list)  # the JSON lines of `out`

    @property
    def all(self) -> str:
        return f"{self.out}\n{self.err}"


@dataclass(frozen=True)
class Program:
    """One agent. `tool` is how its model calls its shell; `answer` finds the last words in what it printed."""

    name: str
    command: Callable[[str, str, Path], tuple[list[str], dict[str, str]]]  # url, model, home
    tool: Callable[[str], dict[str, Any]]
    answer: Callable[[Said], str]

    def run(self, url: str, model: str, prompt: str, home: Path, *, timeout_s: float = 120.0, **environ: str) -> Said:
        """One turn of the user, to its end. The working folder is `home / "work"`."""
        work = home / "work"
        work.mkdir(parents=True, exist_ok=True)
        command, own = self.command(url, model, home)
        began = time.monotonic()
        ended = subprocess.run(
            [*command, prompt],
            cwd=work,
            env={**PLAIN, "HOME": str(home), **own, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        out, err = (stream.decode(errors="replace") for stream in (ended.stdout, ended.stderr))
        return Said(ended.returncode, out, err, time.monotonic() - began, _events(out))


def _events(out: str) -> list[dict[str, Any]]:
    found = []
    for line in out.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _claude(url: str, model: str, home: Path) -> tuple[list[str], dict[str, str]]:
    command = [str(BIN / "claude"), "--print", "--model", model, "--allowedTools", "Bash", "--verbose"]
    command += ["--output-format", "stream-json"]
    environ = {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "none",
        "ANTHROPIC_MODEL": model,
        "ANTHROPIC_SMALL_FAST_MODEL": model,
        "CLAUDE_CONFIG_DIR": str(home / "claude"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    return [*command, "--"], environ


def _claude_answer(said: Said) -> str:
    return str(next((event.get("result", "") for event in reversed(said.events) if event["type"] == "result"), ""))


def _codex(url: str, model: str, home: Path) -> tuple[list[str], dict[str, str]]:
    """Codex knows its maker's models only: without a word on others it warns, and guesses."""
    folder = home / "codex"
    folder.mkdir(parents=True, exist_ok=True)
    known = {
        "slug": model, "display_name": model, "description": "", "supported_reasoning_levels": [],
        "shell_type": "shell_command", "visibility": "list", "supported_in_api": True, "priority": 1,
        "base_instructions": "You are a coding agent.", "supports_reasoning_summaries": False,
        "support_verbosity": False, "apply_patch_tool_type": "freeform",
        "truncation_policy": {"mode": "tokens", "limit": 10000}, "supports_parallel_tool_calls": True,
        "context_window": 131072, "experimental_supported_tools": [],
    }  # fmt: skip
    (folder / "models.json").write_text(json.dumps({"models": [known]}))
    (folder / "config.toml").write_text(
        f'model = "{model}"\nmodel_provider = "cortex"\nmodel_catalog_json = "{folder}/models.json"\n'
        f'[model_providers.cortex]\nname = "cortex"\nbase_url = "{url}/v1"\nwire_api = "responses"\n'
        'env_key = "CORTEX_KEY"\n'
    )
    command = [str(BIN / "codex"), "exec", "--json", "--skip-git-repo-check"]
    return [*command, "--dangerously-bypass-approvals-and-sandbox"], {"CODEX_HOME": str(folder), "CORTEX_KEY": "none"}


def _codex_answer(said: Said) -> str:
    items = [event["item"] for event in said.events if event["type"] == "item.completed"]
    return str(next((item["text"] for item in reversed(items) if item["type"] == "agent_message"), ""))


def _opencode(url: str, model: str, home: Path) -> tuple[list[str], dict[str, str]]:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "cortex",
        "options": {"baseURL": f"{url}/v1", "apiKey": "none"},
        "models": {model: {"name": model, "limit": {"context": 131072, "output": 4096}}},
    }
    config = home / "opencode.json"
    config.write_text(json.dumps({"provider": {"cortex": provider}, "autoupdate": False, "share": "disabled"}))
    command = [str(BIN / "opencode"), "run", "--format", "json", "--model", f"cortex/{model}"]
    return command, {"OPENCODE_CONFIG": str(config), "OPENCODE_DISABLE_MODELS_FETCH": "1"}


def _opencode_answer(said: Said) -> str:
    return "".join(event["part"].get("text", "") for event in said.events if event["type"] == "text")


CLAUDE = Program(
    "claude", _claude, lambda line: {"name": "Bash", "arguments": json.dumps({"command": line})}, _claude_answer
)
CODEX = Program(
    "codex", _codex, lambda line: {"name": "exec_command", "arguments": json.dumps({"cmd": line})}, _codex_answer
)
OPENCODE = Program(
    "opencode",
    _opencode,
    lambda line: {"name": "bash", "arguments": json.dumps({"command": line, "description": "run it"})},
    _opencode_answer,
)
PROGRAMS: Mapping[str, Program] = {program.name: program for program in (CLAUDE, CODEX, OPENCODE)}
