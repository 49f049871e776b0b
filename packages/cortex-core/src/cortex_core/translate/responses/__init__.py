"""OpenAI Responses to chat completions and back (protocol section 5)."""

from cortex_core.translate.responses.request import Context, Translated, count, request
from cortex_core.translate.responses.response import response
from cortex_core.translate.responses.stream import ResponsesStream

__all__ = ["Context", "ResponsesStream", "Translated", "count", "request", "response"]
