"""The simulator's neuron passes the tests of the contract that the real one passes, wherever it plays that part.

Not played: HTTP itself, operations that are followed or called off, health, metrics, discovery, exact usage.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest_asyncio

from cortex_core.fleet import Device
from cortex_core.http import Client
from cortex_gateway.sim.engine import Speed
from cortex_gateway.sim.neuron import SimNeuron
from cortex_gateway.sim.truth import Model
from tests.neuron.contract import test_commands, test_reports, test_requests
from tests.neuron.contract.subject import Subject
from tests.sim.front import Front

MODELS = ("alder", "birch", "cedar")
REPLICA_MB, MEMORY_MB = 1000, 2500

PLAYED: dict[Any, str] = {
    test_commands: """
        test_a_model_is_loaded_answers_and_is_unloaded
        test_the_originals_bodies_are_understood
        test_loads_of_one_model_are_one_load
        test_a_swap_is_one_operation
        test_no_room_is_said_with_the_numbers
        test_what_can_never_fit_is_said_at_once_and_evicts_nobody
        test_an_old_picture_is_outrun_and_gets_the_new_one
        test_a_victim_with_a_lease_is_not_idle
        test_a_drained_victim_finishes_its_streams_and_then_goes
        test_a_drain_that_takes_too_long_opens_the_gate_again
        test_unload_is_refused_while_busy_unless_it_drains_or_cuts
        test_two_swaps_for_one_victim_are_one_swap
        test_a_pinned_model_stays
        test_a_cordoned_neuron_takes_nothing_new
        test_demand_is_shared
        test_a_placement_is_obeyed_or_refused
    """,
    test_reports: """
        test_a_report_is_whole_and_its_invariants_hold
        test_what_a_load_took_is_remembered
        test_events_begin_with_a_snapshot_and_tell_a_loads_whole_way
        test_a_heartbeat_comes_each_second_with_the_gauges
        test_what_has_no_event_of_its_own_comes_as_a_snapshot
    """,
    test_requests: """
        test_a_lease_lasts_from_the_head_to_the_last_byte
        test_no_request_is_executed_twice
        test_another_instance_is_outrun
        test_a_replica_that_is_gone_refuses_with_what_there_is
        test_while_it_loads_a_request_is_sent_to_wait
        test_a_draining_replica_refuses_not_executed
        test_slots_and_queues_are_bounded
    """,
}
for _module, _names in PLAYED.items():
    globals().update({name: getattr(_module, name) for name in _names.split()})


@pytest_asyncio.fixture
async def subject() -> AsyncIterator[Subject]:
    """On the ordinary loop: what it does is the same whether time is virtual."""
    speed = Speed(tokens_per_s=4000.0, request_tokens_per_s=100.0, first_tokens=1.0)
    models = {name: Model(need_mb=REPLICA_MB, load_s=0.1, unload_s=0.01, speed=speed) for name in MODELS}
    async with asyncio.TaskGroup() as tasks:
        neuron = SimNeuron("beast", [Device(id="cpu:0", memory_mb=MEMORY_MB)], models, tasks, guard_s=0.0)
        neuron.start()
        yield Subject(cast("Client", Front(neuron, tasks)), MODELS, REPLICA_MB)
        neuron.crash()
