"""What the SDK of OpenAI one major version back, and LangChain, make of the gateway: run by an interpreter with those.

`sdk_turns.py URL MODEL` asks for a turn with a tool call, streamed and whole, in each way, and prints one JSON object.
Standard library and those packages only.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import openai
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import BaseMessageChunk
from langchain_openai import ChatOpenAI

TOOL: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ASK: Any = [{"role": "user", "content": "Weather?"}]


def with_openai(url: str, model: str) -> dict[str, Any]:
    sdk = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    tools: Any = [{"type": "function", "function": TOOL}]
    whole = sdk.chat.completions.create(model=model, messages=ASK, tools=tools)
    with sdk.chat.completions.stream(
        model=model, messages=ASK, tools=tools, stream_options={"include_usage": True}
    ) as stream:
        final = stream.get_final_completion()
    flat: Any = [{"type": "function", "strict": False, **TOOL}]
    with sdk.responses.stream(model=model, input=ASK, tools=flat) as events:
        response = events.get_final_response()
    calls = [whole.choices[0].message.tool_calls, final.choices[0].message.tool_calls]
    return {
        "version": openai.__version__,
        "calls": [[call.function.name for call in made or ()] for made in calls],
        "items": [item.type for item in response.output],
        "usage": [part.usage.total_tokens if part.usage else 0 for part in (whole, final, response)],
        "models": [listed.id for listed in sdk.models.list()],
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
        "openai": with_openai(url, model),
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
