"""A neuron's refusals as exceptions: raised where the rule is, rendered at the request's boundary."""

from __future__ import annotations

from typing import Any

from cortex_core.neuron_api import REFUSALS, Refusal


class Refused(Exception):
    """What was asked will not be done, with the reason in the contract's terms.

    Args:
        code: a key of `REFUSALS`, which gives the status and where trying again may help.
        message: for people; names the field or the setting.
        fields: further fields of `Refusal`.
    """

    def __init__(self, code: str, message: str, **fields: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.status, retry = REFUSALS[code]
        self.refusal = Refusal(code=code, message=message, **({"retry": retry} | fields))

    @classmethod
    def of(cls, refusal: Refusal) -> Refused:
        """A refusal that was kept, raised again."""
        refused = cls(refusal.code, refusal.message)
        refused.refusal = refusal
        return refused
