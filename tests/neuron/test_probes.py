"""What a chat template can do, found out from what it renders. Templates here are functions of their messages."""

from __future__ import annotations

from typing import Any

import pytest

from neuron.engines.probes import Render, accepts_developer, system_first, thinking_toggle

Messages = list[dict[str, str]]


def plain(messages: Messages, **_: Any) -> str:
    """Takes any role anywhere, as ChatML does."""
    return "".join(f"<|{message['role']}|>{message['content']}" for message in messages)


def strict(messages: Messages, **kwargs: Any) -> str:
    """A system message at the very front, and nothing but the three roles."""
    for number, message in enumerate(messages):
        if message["role"] not in {"system", "user", "assistant"} or (message["role"] == "system" and number):
            raise ValueError("System message must be at the beginning")
    return plain(messages, **kwargs)


def forgetful(messages: Messages, **kwargs: Any) -> str:
    """Leaves out what it does not know."""
    known = [message for number, message in enumerate(messages) if message["role"] != "system" or not number]
    return plain([message for message in known if message["role"] != "developer"], **kwargs)


def to_the_front(messages: Messages, **kwargs: Any) -> str:
    return plain(sorted(messages, key=lambda message: message["role"] != "system"), **kwargs)


def knows_developer(messages: Messages, **kwargs: Any) -> str:
    """Writes the role its own way."""
    roles = {"developer": "system"}
    return plain([{**message, "role": roles.get(message["role"], message["role"])} for message in messages], **kwargs)


def thinks(messages: Messages, *, enable_thinking: bool = True, **_: Any) -> str:
    return plain(messages) + ("<think>" if enable_thinking else "<think></think>")


def thinks_more_or_less(messages: Messages, *, reasoning_effort: str = "medium", **_: Any) -> str:
    return f"Reasoning: {reasoning_effort}" + plain(messages)


@pytest.mark.parametrize(
    ("template", "first"), [(plain, False), (strict, True), (forgetful, True), (to_the_front, True)]
)
def test_rule_A_05_where_a_template_takes_a_system_message(template: Render, first: bool) -> None:
    assert system_first(template) is first


@pytest.mark.parametrize(
    ("template", "accepts"), [(plain, False), (strict, False), (forgetful, False), (knows_developer, True)]
)
def test_rule_C_01_whether_a_template_knows_developers(template: Render, accepts: bool) -> None:
    assert accepts_developer(template) is accepts


@pytest.mark.parametrize(
    ("template", "toggle"), [(plain, ""), (strict, ""), (thinks, "none"), (thinks_more_or_less, "low")]
)
def test_rule_A_31_how_thinking_is_ended(template: Render, toggle: str) -> None:
    assert thinking_toggle(template) == toggle
