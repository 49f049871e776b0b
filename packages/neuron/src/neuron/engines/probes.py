"""What a chat template can do, found out by rendering small conversations with it: nobody writes it down anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

Render = Callable[..., str]
"""(messages, **kwargs) → the prompt. Raises whatever the template raises."""

_SAID = "cortex-probe-words"
_USER, _ASSISTANT = ({"role": role, "content": "Hello"} for role in ("user", "assistant"))


def system_first(render: Render) -> bool:
    """Whether a system message in the middle is refused, dropped, or moved to the front."""
    late = {"role": "system", "content": _SAID}
    prompt = _rendered(render, [_USER, _ASSISTANT, _USER, late, _USER])
    return _SAID not in prompt or prompt.index(_SAID) < prompt.index("Hello")


def accepts_developer(render: Render) -> bool:
    """Whether it knows the role, as more than any word that stands where a role does."""
    prompts = [_rendered(render, [{"role": role, "content": _SAID}, _USER]) for role in ("developer", "nobody")]
    return _SAID in prompts[0] and prompts[0].replace("developer", "nobody") != prompts[1]


def thinking_toggle(render: Render) -> Literal["", "none", "low"]:
    """The reasoning_effort that ends the model's thinking, or is the least that it has."""

    def differ(key: str, one: Any, other: Any) -> bool:
        return _rendered(render, [_USER], **{key: one}) != _rendered(render, [_USER], **{key: other})

    if differ("enable_thinking", False, True):
        return "none"
    return "low" if differ("reasoning_effort", "low", "high") else ""


def _rendered(render: Render, messages: list[dict[str, str]], **kwargs: Any) -> str:
    """The prompt; nothing where the template refuses."""
    try:
        return render(messages, **kwargs)
    except _REFUSALS:
        return ""


def _refusals() -> tuple[type[Exception], ...]:
    """Templates raise jinja's errors, and Python's through it."""
    plain = (ValueError, TypeError, KeyError, AttributeError, IndexError, NotImplementedError, AssertionError)
    try:
        from jinja2 import TemplateError
    except ImportError:
        return plain
    return (*plain, TemplateError)


_REFUSALS = _refusals()
