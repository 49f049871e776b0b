"""Anthropic Messages to chat completions and back (protocol section 3)."""

from cortex_core.translate.messages.request import Context, Translated, bare_model, request
from cortex_core.translate.messages.response import response
from cortex_core.translate.messages.stream import PING, MessagesStream

__all__ = ["PING", "Context", "MessagesStream", "Translated", "bare_model", "request", "response"]
