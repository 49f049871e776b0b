"""What an SDK of OpenAI makes of the gateway: run by an interpreter that finds the version in question.

`openai_turns.py URL MODEL` asks for a turn with a tool call, whole and streamed, in both dialects, and prints one JSON
object. Standard library and the SDK only.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import openai

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


if __name__ == "__main__":
    sys.stdout.write(json.dumps(with_openai(*sys.argv[1:])))
