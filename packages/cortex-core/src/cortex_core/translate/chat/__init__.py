"""Chat completions, made acceptable to an engine and to every client (protocol section 4, C-01 to C-14)."""

from cortex_core.translate.chat.plain import Plain, plain
from cortex_core.translate.chat.request import ChatContext, Normal, request
from cortex_core.translate.chat.response import response
from cortex_core.translate.chat.stream import ChatStream

__all__ = ["ChatContext", "ChatStream", "Normal", "Plain", "plain", "request", "response"]
