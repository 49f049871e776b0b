"""What LangChain makes of the gateway: run by an interpreter that has it.

`sdk_turns.py URL MODEL` asks for a turn with a tool call, streamed and whole, in each way, and prints one JSON object.
Standard library and LangChain only.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import BaseMessageChunk
from langchain_openai import ChatOpenAI

TOOL: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def with_langchain(chat: Any) -> dict[str, Any]:
    bound = chat.bind_tools([{"type": "function", "function": TOOL}])
    whole = bound.invoke("Weather?")
    streamed: BaseMessageChunk | None = None
    for chunk in bound.stream("Weather?"):
        streamed = chunk if streamed is None else streamed + chunk
    return {
        "calls": [[call["name"] for call in said.tool_calls] for said in (whole, streamed) if said is not None],
        "usage": [said.usage_metadata for said in (whole, streamed) if said is not None],
    }


def main(url: str, model: str) -> None:
    v1 = f"{url}/v1"
    said = {
        "langchain-openai": with_langchain(
            ChatOpenAI(model=model, base_url=v1, api_key="none", max_retries=0, stream_usage=True)
        ),
        "langchain-anthropic": with_langchain(
            ChatAnthropic(model=model, base_url=url, api_key="none", max_retries=0, max_tokens=100)
        ),
    }
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
