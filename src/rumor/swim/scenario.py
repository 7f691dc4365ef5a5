"""A cluster put to the test on a virtual clock: members crash, packets get lost, the network parts; who knows when?

Thinks only: `rumor simulate` prints what comes out. Same settings, same result to the last digit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from rumor.model import Instant, Seconds
from rumor.swim import events
from rumor.swim.presets import PRESETS
from rumor.swim.simulation import Simulation

WARM_UP = Seconds(5.0)
CRASH_AT = Seconds(10.0)
AFTER_PARTITION = Seconds(60.0)
_STEP = 1.0
_RECONNECT_INTERVAL = 30.0


@dataclass(frozen=True, slots=True)
class Partition:
    """A share of the members is cut off from the rest for a while; times since the start."""

    share: float
    start: Seconds
    end: Seconds


@dataclass(frozen=True, slots=True)
class ScenarioSettings:
    nodes: int = 100
    loss: float = 0.0
    fail: int = 1
    """How many members crash, all at once."""
    partition: Partition | None = None
    profile: str = "lan"
    seed: int = 1
    duration: Seconds = Seconds(60.0)


@dataclass(frozen=True, slots=True)
class Times:
    """Times in seconds; None where nothing was measured."""

    median: float | None = None
    p99: float | None = None
    last: float | None = None


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """What came of it."""

    detection: Times
    """From each crash until the first survivor held the member for failed."""
    dissemination: Times
    """From each crash until each survivor did."""
    missed: int
    """How many pairs of a survivor and a crashed member were still unaware at the end."""
    false_suspicions: int
    false_failures: int
    """Living members that somebody held for failed, but for what a parted network makes of them."""
    healed_after: float | None
    """From the end of the partition until everybody saw everybody again; None without one, or if it never happened."""
    packets: float
    """Sent by each member each second; bytes likewise."""
    bytes: float


def run_scenario(
    settings: ScenarioSettings, on_progress: Callable[[float, float], None] = lambda done, total: None
) -> ScenarioResult:
    """Run one scenario; `on_progress` hears of the simulated seconds that have passed, and of all there are."""
    simulation = Simulation(settings.seed, settings.nodes, timings=PRESETS[settings.profile])
    simulation.converge()
    simulation.run(WARM_UP)
    simulation.loss = settings.loss
    random = Random(f"scenario {settings.seed}")  # noqa: S311 # a simulation is repeatable on purpose
    story = _Story(simulation, settings, random)
    total = settings.duration
    start = simulation.now
    sent_before = (simulation.traffic.packets_sent, simulation.traffic.bytes_sent)
    while (passed := simulation.now - start) < total:
        on_progress(passed, total)
        story.act(Seconds(passed))
        simulation.run(min(_STEP, total - passed))
        story.look(Seconds(simulation.now - start))
    on_progress(total, total)
    packets, size = simulation.traffic.packets_sent - sent_before[0], simulation.traffic.bytes_sent - sent_before[1]
    return story.result(packets / settings.nodes / total, size / settings.nodes / total)


class _Story:
    """What happens to the cluster, and when."""

    def __init__(self, simulation: Simulation, settings: ScenarioSettings, random: Random) -> None:
        self._simulation = simulation
        self._settings = settings
        self._random = random
        names = list(simulation.names)
        self._crashing = sorted(random.sample(names, min(settings.fail, len(names) - 1)))
        self._crashed_at: Instant | None = None
        self._is_parted = False
        self._parted_at: Instant | None = None
        self._healed_at: Instant | None = None
        self._whole_after: float | None = None
        self._next_reconnect = _RECONNECT_INTERVAL

    def act(self, passed: Seconds) -> None:
        """Do what is due."""
        simulation, partition = self._simulation, self._settings.partition
        if self._crashed_at is None and passed >= CRASH_AT:
            self._crashed_at = simulation.now
            for name in self._crashing:
                simulation.crash(name)
        if partition is not None and not self._is_parted and self._healed_at is None and passed >= partition.start:
            names = list(simulation.names)
            side = self._random.sample(names, max(1, round(partition.share * len(names))))
            simulation.partition(sorted(side))
            self._is_parted, self._parted_at = True, simulation.now
        if partition is not None and self._is_parted and passed >= partition.end:
            simulation.heal()
            self._is_parted, self._healed_at = False, simulation.now
        if passed >= self._next_reconnect:
            self._next_reconnect += _RECONNECT_INTERVAL
            self._reconnect()

    def look(self, passed: Seconds) -> None:
        if self._healed_at is not None and self._whole_after is None and self._simulation.is_agreed(self._survivors()):
            self._whole_after = self._simulation.now - self._healed_at

    def result(self, packets: float, size: float) -> ScenarioResult:
        survivors = set(self._survivors())
        failures = self._simulation.events(events.MemberFailed)
        suspicions = self._simulation.events(events.MemberSuspected)
        crashed_at = self._crashed_at or Instant(0.0)
        known: dict[str, dict[str, float]] = {name: {} for name in self._crashing}
        for at, observer, event in failures:
            if event.name in known and observer in survivors:
                known[event.name].setdefault(observer, at - crashed_at)
        firsts = [min(times.values()) for times in known.values() if times]
        everybody = [time for times in known.values() for time in times.values()]
        return ScenarioResult(
            detection=_times(firsts),
            dissemination=_times(everybody),
            missed=sum(len(survivors) - len(times) for times in known.values()) if self._crashed_at else 0,
            false_suspicions=sum(self._is_false(at, event.name) for at, _, event in suspicions),
            false_failures=sum(self._is_false(at, event.name) for at, _, event in failures),
            healed_after=None if self._whole_after is None else round(self._whole_after, 3),
            packets=round(packets, 3),
            bytes=round(size, 1),
        )

    def _survivors(self) -> list[str]:
        gone = set(self._crashing) if self._crashed_at is not None else set()
        return [name for name in self._simulation.names if name not in gone]

    def _is_false(self, at: Instant, name: str) -> bool:
        """Say whether an accusation was wrong: of one that lives, while the network was whole and known to be."""
        if name in self._crashing and self._crashed_at is not None and at >= self._crashed_at:
            return False
        if self._parted_at is None or at < self._parted_at:
            return True
        return self._whole_after is not None and at > (self._healed_at or at) + self._whole_after

    def _reconnect(self) -> None:
        """Do what every agent's joiner does: look for one member that failed."""
        for name in self._survivors():
            failed = self._simulation.node(name).failed()
            if failed:
                self._simulation.sync(name, self._simulation.address(self._random.choice(failed)))


def _times(values: Sequence[float]) -> Times:
    if not values:
        return Times()
    ordered = sorted(values)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)], 3)

    return Times(at(0.5), at(0.99), round(ordered[-1], 3))
