"""What the neurons have besides the catalogue, in their folders or in memory, as profiles that say nothing more.

Of a catalogue the whole is kept: its models' names and folders, and its aliases, are not given to others.
"""

from __future__ import annotations

from cortex_core.config import Catalogue
from cortex_core.fleet import Fleet
from cortex_gateway.policy.catalogue import as_profiles, offered
from cortex_gateway.policy.transitions import Discovered, Event, Reported, Reprofiled


class Discovery:
    """Keeps what each neuron offers, since a fleet's folders are long lists that hardly ever change."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._profiles = catalogue.profiles
        self._taken = {*catalogue.aliases, *self._profiles, *(profile.source for profile in catalogue.models)}
        self._offers: dict[str, frozenset[str]] = {}

    def after(self, fleet: Fleet, event: Event) -> Reprofiled | None:
        """The catalogue anew, when something was heard that changes it. `fleet` is as it is after the event."""
        if not isinstance(event, Reported | Discovered):
            return None
        offer = offered(fleet.neurons[event.neuron])
        if offer == self._offers.get(event.neuron):
            return None
        self._offers[event.neuron] = offer
        found = as_profiles(frozenset().union(*self._offers.values()) - self._taken)
        profiles = {**self._profiles, **found}
        return Reprofiled(profiles) if profiles != fleet.profiles else None
