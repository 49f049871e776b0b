"""What is known of a model when its requests are translated: from its replicas, else from what neurons learned."""

from __future__ import annotations

from msgspec import structs

from cortex_core.fleet import Checkpoint, Limit, ModelFacts
from cortex_gateway.policy.facts import capabilities, facts
from tests.gateway.policy.fleets import known, neuron, picture, profile, replica

THINKER = ModelFacts(context=4096, reasoning=True, thinking_toggle="none", system_first=False, vision=False)
LEARNED = structs.replace(known("m1", 1.0), facts=structs.replace(THINKER, tools=False))


def test_nothing_is_known_of_a_model_that_nobody_has() -> None:
    assert facts(picture(neuron()).fleet, profile()) == ModelFacts()


def test_a_replica_knows_best() -> None:
    loaded = neuron("n1", replica("m1", facts=THINKER, context=2048), known=[LEARNED])
    assert facts(picture(loaded).fleet, profile()) == structs.replace(THINKER, context=2048)


def test_what_a_neuron_learned_holds_before_a_load() -> None:
    cold = neuron("n1", known=[LEARNED], checkpoints=[Checkpoint(name="m1", context=8192)])
    assert facts(picture(cold).fleet, profile()) == structs.replace(THINKER, tools=False, context=8192)
    other = neuron("n1", known=[structs.replace(LEARNED, digest="of other options")])
    assert facts(picture(other).fleet, profile()) == ModelFacts()
    down = neuron("n1", known=[LEARNED], up=False)
    assert facts(picture(down).fleet, profile()) == ModelFacts()


def test_the_tightest_context_counts() -> None:
    """A request may go to any of them, and the catalogue has its word."""
    fleet = picture(
        neuron("n1", replica("m1", facts=THINKER, context=8192)), neuron("n2", replica("m1", context=2048))
    ).fleet
    assert facts(fleet, profile()).context == 2048
    assert facts(fleet, profile(limit=Limit(context=1000))).context == 1000


def test_what_a_model_can_is_read_off_it_unless_the_catalogue_says() -> None:
    fleet = picture(neuron("n1", replica("m1", facts=THINKER))).fleet
    assert capabilities(fleet, profile()) == ("tools", "reasoning")
    assert capabilities(fleet, profile(capabilities=("chat",))) == ("chat",)
    assert capabilities(picture(neuron()).fleet, profile()) == ()
