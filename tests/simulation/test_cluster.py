"""Clusters on a virtual clock: what must hold whatever the network does. A failure names its seed."""

from dataclasses import replace
from random import Random

import pytest

from rumor.joiner import RECONNECT_INTERVAL, failed_addresses
from rumor.model import Seconds
from rumor.names import HostPort
from rumor.swim import events
from rumor.swim.messages import State
from rumor.swim.presets import LAN, LOCAL, Timings
from rumor.swim.simulation import Simulation


def joined(seed: int, nodes: int, *, timings: Timings = LAN) -> Simulation:
    """Return a cluster in which everybody knows everybody, on a network that still loses nothing."""
    simulation = Simulation(seed, nodes, timings=timings)
    simulation.join_all()
    assert simulation.run_until(lambda: simulation.is_agreed(simulation.names), within=60, step=1) is not None, seed
    return simulation


def others(simulation: Simulation, *without: str) -> list[str]:
    return [name for name in simulation.names if name not in without]


def reconnect(simulation: Simulation, random: Random) -> None:
    """Do what the agent's joiner does every half minute: each node syncs with one member that it holds for failed."""
    for name in simulation.running:
        own = simulation.address(name)
        failed = failed_addresses(simulation.node(name).members(), own)
        if failed:
            simulation.sync(name, random.choice(failed))


# --- agreement


def test_a_hundred_members_agree_on_a_network_that_loses_a_tenth() -> None:
    simulation = Simulation(1, 100, loss=0.1)
    simulation.join_all()
    assert simulation.run_until(lambda: simulation.is_agreed(simulation.names), within=60, step=1) is not None
    assert simulation.traffic.packets_lost > 100


def test_a_partition_that_heals_leaves_no_trace() -> None:
    simulation = joined(2, 100)
    simulation.loss = 0.1
    left, right = simulation.names[:40], simulation.names[40:]
    simulation.partition(left, right)
    parted = simulation.run_until(
        lambda: simulation.is_agreed(left) and simulation.is_agreed(right), within=180, step=1
    )
    assert parted is not None, "each side must end up with itself alone"
    simulation.heal()
    random = Random(2)
    simulation.run(5)
    assert not simulation.is_agreed(simulation.names), "memberlist alone does not look for the dead for ever"
    for _ in range(4):
        reconnect(simulation, random)
        if simulation.run_until(lambda: simulation.is_agreed(simulation.names), within=RECONNECT_INTERVAL, step=1):
            break
    assert simulation.is_agreed(simulation.names)


def heal_a_parting(seed: int, nodes: int) -> None:
    """Cut 30 % off for a minute, under a tenth of loss; afterwards everybody must see everybody."""
    simulation = Simulation(seed, nodes)
    simulation.converge()
    simulation.loss = 0.1
    simulation.run(5)
    random = Random(seed)
    simulation.partition(random.sample(simulation.names, nodes * 3 // 10))
    simulation.run(60)
    assert simulation.events(events.MemberFailed), f"seed {seed}: nobody noticed the parting"
    simulation.heal()
    for _ in range(6):
        reconnect(simulation, random)
        if simulation.run_until(lambda: simulation.is_agreed(simulation.names), within=RECONNECT_INTERVAL, step=5):
            break
    assert simulation.is_agreed(simulation.names), f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_members_heal_from_a_parting(seed: int) -> None:
    heal_a_parting(seed, 150)


def test_a_crash_is_noticed_by_everybody_within_the_suspicion_time() -> None:
    simulation = joined(3, 100)
    simulation.loss = 0.1
    crashed_at = simulation.now
    simulation.crash("node-42")
    assert simulation.run_until(lambda: simulation.is_agreed(others(simulation, "node-42")), within=60) is not None
    noticed = simulation.events(events.MemberFailed)
    assert {event.name for _, _, event in noticed} == {"node-42"}
    assert {observer for _, observer, _ in noticed} == set(others(simulation, "node-42"))
    # Some probe soon, a suspicion that others confirm (8 s at a hundred members), and the way of the news.
    assert 8 <= noticed[0][0] - crashed_at <= 20
    assert noticed[-1][0] - noticed[0][0] <= 15


def test_a_member_that_leaves_is_seen_as_left_and_never_as_failed() -> None:
    simulation = joined(4, 50)
    simulation.loss = 0.1
    simulation.leave("node-7")
    assert simulation.run_until(lambda: bool(simulation.events(events.LeaveDone)), within=10) is not None
    simulation.crash("node-7")
    everybody = others(simulation, "node-7")
    assert simulation.run_until(
        lambda: all(simulation.states(name).get("node-7") is State.LEFT for name in everybody), within=20
    )
    simulation.run(40)
    assert not simulation.events(events.MemberFailed)
    assert len(simulation.events(events.MemberLeft)) == len(everybody)


# --- false alarms


@pytest.mark.parametrize("seed", range(3))
def test_a_tenth_of_loss_makes_no_member_suspect_another_where_streams_pass(seed: int) -> None:
    """Half a minute of 60 members is some 1,800 probes, a fifth of which lose their ping or its ack."""
    simulation = joined(seed, 60)
    simulation.loss = 0.1
    simulation.run(30)
    assert sum(simulation.node(name).statistics().probes for name in simulation.names) > 1500
    assert not simulation.events(events.MemberSuspected), f"seed {seed}"
    assert not simulation.events(events.MemberFailed), f"seed {seed}"


@pytest.mark.parametrize("seed", range(2))
def test_a_tenth_of_loss_makes_no_member_fail_even_where_only_packets_pass(seed: int) -> None:
    """Suspicions do come up here, and every one is refuted in time."""
    simulation = joined(seed, 60)
    simulation.loss, simulation.passes_streams = 0.1, False
    simulation.run(60)
    assert simulation.events(events.MemberSuspected), f"seed {seed}"
    assert not simulation.events(events.MemberFailed), f"seed {seed}"


def suspicions(seed: int, timings: Timings, *, passes_streams: bool) -> int:
    simulation = joined(seed, 40, timings=timings)
    simulation.loss, simulation.passes_streams = 0.1, passes_streams
    simulation.run(20)
    return len({(event.by, event.name) for _, name, event in simulation.events(events.MemberSuspected)})


def test_indirect_checks_are_what_keeps_lost_packets_from_becoming_suspicions() -> None:
    with_helpers = suspicions(5, LAN, passes_streams=False)
    without = suspicions(5, replace(LAN, indirect_checks=0), passes_streams=False)
    assert without > 5 * max(1, with_helpers)


def test_the_fallback_over_tcp_is_what_keeps_lost_packets_from_becoming_suspicions() -> None:
    alone = replace(LAN, indirect_checks=0)
    assert suspicions(6, alone, passes_streams=True) == 0
    assert suspicions(6, alone, passes_streams=False) > 20


def failures_by_a_deaf_node(seed: int, timings: Timings) -> set[str]:
    """Return who else is declared dead where one node neither hears nor says two thirds of everything."""
    simulation = joined(seed, 30, timings=timings)
    simulation.passes_streams = False
    simulation.losses = {"node-3": 0.6}
    simulation.run(60)
    return {event.name for _, _, event in simulation.events(events.MemberFailed)} - {"node-3"}


def test_suspicion_and_awareness_keep_a_node_that_hears_little_from_condemning_healthy_ones() -> None:
    hasty = replace(LAN, suspicion_mult=1, suspicion_max_timeout_mult=1, awareness_max=1)
    condemning = [seed for seed in range(8) if failures_by_a_deaf_node(seed, LAN)]
    without = [seed for seed in range(8) if failures_by_a_deaf_node(seed, hasty)]
    assert len(without) >= 6, f"seeds {without}"
    assert len(condemning) <= 2, f"seeds {condemning}"


# --- stalls and restarts


@pytest.mark.parametrize("seconds", [3.0, 60.0])
def test_a_frozen_node_is_alive_for_all_within_two_seconds_of_its_resuming(seconds: float) -> None:
    simulation = joined(8, 20, timings=LOCAL)
    simulation.freeze("node-5")
    simulation.run(seconds)
    noted = any(simulation.states(name).get("node-5") is not State.ALIVE for name in others(simulation, "node-5"))
    assert noted, "somebody must have noticed, or this test says nothing"
    before = len(simulation.happenings)
    simulation.resume("node-5")
    took = simulation.run_until(lambda: simulation.is_agreed(simulation.names), within=10)
    assert took is not None
    assert took <= 2.0
    after = simulation.happenings[before:]
    assert any(isinstance(one.event, events.Resumed) and one.node == "node-5" for one in after)
    assert not any(isinstance(one.event, events.MemberFailed) for one in after), "it must blame nobody for its sleep"


def test_a_node_that_restarts_under_its_name_and_address_is_taken_back() -> None:
    simulation = joined(9, 10, timings=LOCAL)
    simulation.crash("node-3")
    assert simulation.run_until(lambda: simulation.is_agreed(others(simulation, "node-3")), within=60) is not None
    simulation.restart("node-3")
    simulation.join("node-3", "node-0")
    assert simulation.run_until(lambda: simulation.is_agreed(simulation.names), within=5) is not None


def test_a_node_that_restarts_at_once_at_another_address_is_taken_back() -> None:
    simulation = joined(10, 10, timings=LOCAL)
    address = HostPort("10.9.9.9", 7946)
    simulation.restart("node-3", address=address)
    simulation.join("node-3", "node-0")

    def is_moved() -> bool:
        return all(
            member.address == address and member.state is State.ALIVE
            for name in simulation.names
            for member in simulation.node(name).members()
            if member.name == "node-3"
        )

    assert simulation.run_until(is_moved, within=30) is not None
    # The newcomer hears of its own former life, and cannot know yet that it is over.
    assert {observer for _, observer, _ in simulation.events(events.NameConflict)} <= {"node-3"}


# --- repeatability


def lively(seed: int) -> Simulation:
    simulation = Simulation(seed, 20, timings=LOCAL, loss=0.1)
    simulation.join_all()
    simulation.run(5)
    simulation.crash("node-4")
    simulation.partition(simulation.names[:8])
    simulation.run(15)
    simulation.heal()
    simulation.restart("node-4")
    simulation.join("node-4", "node-9")
    simulation.run(15)
    return simulation


def test_the_same_seed_gives_the_same_run_to_the_last_packet() -> None:
    first, second = lively(11), lively(11)
    assert first.trace_hash() == second.trace_hash()
    assert first.happenings == second.happenings
    assert first.traffic == second.traffic


def test_another_seed_gives_another_run() -> None:
    assert lively(11).trace_hash() != lively(12).trace_hash()


# --- long runs


SOAK_SEEDS = range(100, 130)


@pytest.mark.soak
@pytest.mark.parametrize("seed", SOAK_SEEDS)
def test_a_hundred_members_live_through_loss_crashes_freezes_and_partings(seed: int) -> None:
    simulation = joined(seed, 100)
    simulation.loss = 0.1
    random = Random(seed)
    for _ in range(5):
        crashed, frozen = random.sample(simulation.names, 2)
        simulation.crash(crashed)
        simulation.freeze(frozen)
        side = random.sample(simulation.names, 30)
        simulation.partition(side)
        simulation.run(random.uniform(5, 90))
        simulation.heal()
        simulation.resume(frozen)
        simulation.restart(crashed)
        simulation.join(crashed, next(name for name in simulation.names if name not in (crashed, frozen)))
        for _ in range(6):
            reconnect(simulation, random)
            if simulation.run_until(lambda: simulation.is_agreed(simulation.names), within=RECONNECT_INTERVAL, step=1):
                break
        assert simulation.is_agreed(simulation.names), f"seed {seed}"


@pytest.mark.soak
@pytest.mark.parametrize("seed", SOAK_SEEDS)
def test_ten_minutes_of_a_tenth_of_loss_make_no_member_fail(seed: int) -> None:
    simulation = joined(seed, 50)
    simulation.loss = 0.1
    simulation.run(Seconds(600.0))
    assert not simulation.events(events.MemberFailed), f"seed {seed}"


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(200))
def test_five_hundred_members_heal_from_any_parting(seed: int) -> None:
    heal_a_parting(seed, 500)


@pytest.mark.soak
def test_a_thousand_members_agree() -> None:
    simulation = Simulation(1, 1000)
    simulation.join_all()
    assert simulation.run_until(lambda: simulation.is_agreed(simulation.names), within=300, step=5) is not None
