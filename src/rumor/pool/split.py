"""Weights by version: a canary gets its share of the requests, however many servers run it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rumor.model import Evidence, Rotation, Server

_HEAVIEST = 256


def split(servers: Sequence[Server], shares: Mapping[str, int]) -> tuple[Server, ...]:
    """Return the servers with weights that give each version its share, in the same order.

    Within a version servers keep their weights' relation. A version that has no server in rotation leaves its share to
    the others; a version that is not named gets nothing, unless nobody else is there.

    Args:
        servers: of one service; those that an operator has weighed keep that weight's relation, too.
        shares: of each version, in any unit; empty to leave all weights as they are.
    """
    if not shares:
        return tuple(servers)
    sums = dict.fromkeys((version for version, share in shares.items() if share), 0)
    for server in servers:
        if server.rotation is Rotation.READY and server.version in sums:
            sums[server.version] += server.weight
    if not any(sums.values()):
        says = "no version with a share is in rotation: the weights alone decide"
        return tuple(replace(server, evidence=(*server.evidence, Evidence("split", says))) for server in servers)
    total = sum(shares[version] for version in shares if sums.get(version))
    exact = [
        shares[server.version] * server.weight / sums[server.version] if sums.get(server.version) else 0.0
        for server in servers
    ]
    factor = _HEAVIEST / max(exact)
    return tuple(
        replace(
            server,
            weight=max(1, round(weight * factor)) if weight else 0,
            evidence=(*server.evidence, Evidence("split", _says(server.version, shares, sums, total))),
        )
        for server, weight in zip(servers, exact, strict=True)
    )


def _says(version: str, shares: Mapping[str, int], sums: Mapping[str, int], total: int) -> str:
    if not sums.get(version):
        return f"version {version or 'unnamed'} gets no share"
    return f"version {version} gets {100 * shares[version] / total:.3g} %"
