"""The timings of memberlist's three presets.

Facts: reference/gossip-wire.md, section 8.3. All times in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rumor.model import Seconds


@dataclass(frozen=True, slots=True)
class Timings:
    """Every number that decides how fast news travels and how long a doubt may last."""

    tcp_timeout: Seconds
    indirect_checks: int
    retransmit_mult: int
    suspicion_mult: int
    suspicion_max_timeout_mult: int
    push_pull_interval: Seconds
    probe_interval: Seconds
    probe_timeout: Seconds
    gossip_interval: Seconds
    gossip_nodes: int
    gossip_to_the_dead: Seconds
    awareness_max: int = 8
    packet_budget: int = 1400
    leave_timeout: Seconds = Seconds(5.0)
    """How long the word of a leave may take to be sent often enough."""


def _timings(*values: float) -> Timings:
    tcp, checks, retransmit, mult, max_mult, push, interval, timeout, gossip, nodes, dead = values
    return Timings(
        Seconds(tcp), int(checks), int(retransmit), int(mult), int(max_mult), Seconds(push), Seconds(interval),
        Seconds(timeout), Seconds(gossip), int(nodes), Seconds(dead),
    )  # fmt: skip


LAN = _timings(10, 3, 4, 4, 6, 30, 1, 0.5, 0.2, 3, 30)
WAN = _timings(30, 3, 4, 6, 6, 60, 5, 3, 0.5, 4, 60)
LOCAL = _timings(1, 1, 2, 3, 6, 15, 1, 0.2, 0.1, 3, 15)

PRESETS: Mapping[str, Timings] = MappingProxyType({"lan": LAN, "wan": WAN, "local": LOCAL})
