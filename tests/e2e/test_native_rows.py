"""Requests that vLLM's own Messages and Responses refuse, through the whole to the real engine: all are answered."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.e2e.conftest import BEAST, Cluster
from tests.support import engines, native_rows

pytestmark = [pytest.mark.engine, engines.needs_vllm]

MESSAGE = {"model": BEAST, "max_tokens": 16, "temperature": 0, "messages": [native_rows.ASK]}
RESPONSE = {"model": BEAST, "max_output_tokens": 16, "temperature": 0, "input": "Who are you?"}


def test_every_row_is_answered(vllm: Cluster) -> None:
    """One test for all: the model is loaded once."""
    refused: dict[str, Any] = {}
    with httpx.Client(base_url=vllm.gateway.url, timeout=90) as client:
        for number, fields, _, _ in native_rows.MESSAGES:
            for stream in (False, True):
                answer = client.post("/v1/messages", json=MESSAGE | fields | {"stream": stream})
                if answer.status_code != 200 or (stream and "message_stop" not in answer.text):
                    refused[f"{number} {stream}"] = answer.text
        for number, fields, _, _ in native_rows.RESPONSES:
            for stream in (False, True):
                answer = client.post("/v1/responses", json=RESPONSE | fields | {"stream": stream})
                ended = "response.completed" in answer.text or "response.incomplete" in answer.text
                if answer.status_code != 200 or (stream and not ended):
                    refused[f"{number} {stream}"] = answer.text
    assert refused == {}
