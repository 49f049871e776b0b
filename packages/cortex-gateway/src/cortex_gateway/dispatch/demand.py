"""What waits at this gateway, told to every neuron that could serve it: all gateways order turns on the sum."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from cortex_core.fleet import Demand
from cortex_core.neuron_api import DemandRequest
from cortex_gateway.dispatch.commands import Commands, Refused, Unreachable
from cortex_gateway.policy.picture import Picture
from cortex_gateway.policy.schedule import Backlog, hosts


class Posts:
    """Posted once a second, and withdrawn at once where nobody waits any more: a neuron forgets them by itself."""

    def __init__(self, commands: Commands, gateway: str) -> None:
        self._commands = commands
        self._gateway = gateway
        self.models: set[str] = set()  # that neurons were told are waited for

    def post(
        self,
        tasks: asyncio.TaskGroup,
        picture: Picture,
        backlogs: Sequence[Backlog],
        neurons: Collection[str] | None = None,
    ) -> None:
        """Tell each neuron that could host them, or only these; those are told even if nothing waits for them."""
        posts: dict[str, dict[str, Demand]] = {name: {} for name in neurons or ()}
        for backlog in backlogs:
            demand = Demand(backlog.waiters + backlog.tickets, max(0.0, picture.now - backlog.oldest))
            profile = picture.fleet.profiles.get(backlog.model)
            for neuron in hosts(picture, profile) if profile else ():
                if neurons is None or neuron in neurons:
                    posts.setdefault(neuron, {})[backlog.model] = demand
        for neuron, models in posts.items():
            tasks.create_task(self._tell(neuron, DemandRequest(gateway=self._gateway, models=models)))
        self.models = {backlog.model for backlog in backlogs}

    async def _tell(self, neuron: str, request: DemandRequest) -> None:
        try:
            await self._commands.demand(neuron, request)
        except (Refused, Unreachable):
            return  # the next one comes in a second
