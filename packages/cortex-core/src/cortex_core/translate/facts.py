"""What a translation must know of a model: its neuron probes and publishes it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class ModelFacts(Struct, frozen=True, kw_only=True):
    """The defaults are those of a model of which nothing is known: nothing is forbidden, nothing is rewritten for it."""

    max_model_len: int = 0  # tokens; 0: unknown
    vision: bool = True  # whether it takes images
    audio: bool = True
    reasoning_parser: bool = False
    tool_parser: bool = True
    system_first: bool = False  # its template takes a system message at the beginning alone
    accepts_developer: bool = False  # its template knows that role
    thinking_toggle: Literal["", "none", "low"] = ""  # the reasoning effort that turns thinking off; empty: none does
