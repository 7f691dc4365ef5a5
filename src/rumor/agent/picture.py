"""Members -> what templates of files see. Nothing here acts."""

from collections.abc import Sequence

from rumor.agent.drain import BALANCER_TAG
from rumor.config import Config
from rumor.model import Instant, Member, MemberStatus
from rumor.pool.table import Blindness, PoolSettings, build_table
from rumor.render.file import MemberView, Picture, ServerView, ServiceView
from rumor.render.free_text import FreeTags


def picture(config: Config, node: str, members: Sequence[Member]) -> Picture:
    """Return the picture of one node; members that left are not in it."""
    pool = {
        service.name: PoolSettings(service.floor, service.role, service.port, service.split)
        for service in config.services
    }
    table, _ = build_table(members, pool, (), blindness=Blindness(), now=Instant(0.0))
    present = sorted(
        (member for member in members if member.status is not MemberStatus.LEFT), key=lambda member: member.name
    )
    return Picture(
        config.cluster.name,
        node,
        tuple(
            MemberView(
                member.name, member.address.host, member.address.port, member.status.value,
                FreeTags(member.tags),
                BALANCER_TAG in member.tags,
            )
            for member in present
        ),
        tuple(
            ServiceView(
                service.name,
                tuple(
                    ServerView(
                        server.name, server.address.host, server.address.port, server.rotation.value, server.weight,
                        server.version, server.is_backup,
                    )
                    for server in service.servers
                ),
            )
            for service in table.services
        ),
    )  # fmt: skip
