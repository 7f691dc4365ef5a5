"""A container like another one, but of another image or with another command: what Docker is to be asked for.

Docker shows a container's settings with its image's defaults filled in. What came from the old image is left out, so
that the new image's own defaults hold; whatever was said for the container stays: environment, networks, limits,
mounts, labels.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROJECT_LABEL = "com.docker.compose.project"
NUMBER_LABEL = "com.docker.compose.container-number"
_FROM_IMAGE = frozenset(
    ["Cmd", "Entrypoint", "Healthcheck", "User", "WorkingDir", "Volumes", "ExposedPorts", "StopSignal", "Shell"]
)
_OF_ITS_OWN = ("Hostname", "Domainname", "Image", "Env", "Labels", "MacAddress")
_NODE = "RUMOR_NODE"
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
"""The name of a volume that nobody named: one container's own."""
_DEFAULT_NETWORK = {"default": "bridge"}
_NUMBERED = re.compile(r"(.*[-_])([0-9]+)")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to ask of Docker's API for one new container."""

    name: str
    config: Mapping[str, Any]
    """The body of `POST /containers/create`."""
    more_networks: Mapping[str, Mapping[str, Any]]
    """Networks beyond the first, with the container's settings there: engines before 25 take one at creation."""


def container_like(
    container: Mapping[str, Any],
    old_image: Mapping[str, Any],
    *,
    image: str,
    environment: Mapping[str, str],
    name: str,
) -> Wanted:
    """Return what makes a container like `container`.

    Args:
        container: as Docker shows it.
        old_image: its image, as Docker shows that.
        image: the new container's image.
        environment: variables that are set, over those the container was given.
        name: the new container's name.
    """
    config, defaults = container["Config"], old_image.get("Config") or {}
    wanted = {
        key: value
        for key, value in config.items()
        if key not in _OF_ITS_OWN and not (key in _FROM_IMAGE and value == defaults.get(key))
    }
    given = dict(_pair(entry) for entry in config.get("Env") or () if entry not in (defaults.get("Env") or ()))
    # Two members of one name would be at odds: the new one's is its hostname.
    given.pop(_NODE, None)
    wanted["Env"] = [f"{key}={value}" for key, value in sorted({**given, **environment}.items())]
    labels = {
        key: value
        for key, value in (config.get("Labels") or {}).items()
        if (defaults.get("Labels") or {}).get(key) != value
    }
    if NUMBER_LABEL in labels:
        labels[NUMBER_LABEL] = number_of(name) or labels[NUMBER_LABEL]
    networks = {
        net: {"Aliases": _aliases(settings.get("Aliases") or (), container), "Links": settings.get("Links")}
        for net, settings in (container["NetworkSettings"].get("Networks") or {}).items()
    }
    mode = container["HostConfig"].get("NetworkMode")
    first = {net: networks[net] for net in (_DEFAULT_NETWORK.get(mode, mode), *networks) if net in networks}
    first = dict(list(first.items())[:1])
    body = {
        **wanted,
        "Image": image,
        "Labels": labels,
        "HostConfig": _without_anonymous_volumes(container["HostConfig"]),
        "NetworkingConfig": {"EndpointsConfig": first},
    }
    return Wanted(name, body, {net: settings for net, settings in networks.items() if net not in first})


def member_of(container: Mapping[str, Any]) -> str:
    """Return the name of the member that a container is, as `rumor supervise` in it chooses it."""
    variables = dict(_pair(entry) for entry in container["Config"].get("Env") or ())
    return variables.get(_NODE) or str(container["Config"]["Hostname"]).partition(".")[0]


def project_of(container: Mapping[str, Any]) -> str:
    """Return the compose project of a container, empty if it has none."""
    return str((container["Config"].get("Labels") or {}).get(PROJECT_LABEL, ""))


def _without_anonymous_volumes(host: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out one container's own volumes: a new container gets its own.

    Compose names them when it makes a container anew, so that the next one finds its data; all new ones would share it.
    """
    kept = dict(host)
    if host.get("Binds"):
        kept["Binds"] = [bind for bind in host["Binds"] if not _ANONYMOUS.fullmatch(bind.partition(":")[0])]
    if host.get("Mounts"):
        kept["Mounts"] = [
            mount
            for mount in host["Mounts"]
            if mount.get("Type") != "volume" or not _ANONYMOUS.fullmatch(mount.get("Source") or "")
        ]
    return kept


def next_names(model: str, taken: Collection[str], count: int) -> list[str]:
    """Return names for new containers: `shop_web_4` after `shop_web_3`; names end in a number."""
    match = _NUMBERED.fullmatch(model)
    prefix = match[1] if match else f"{model}-"
    numbers = [int(found[2]) for name in (*taken, model) if (found := _NUMBERED.fullmatch(name)) and found[1] == prefix]
    first = max(numbers, default=0) + 1
    return [f"{prefix}{first + offset}" for offset in range(count)]


def number_of(name: str) -> str:
    """Return the number that a name ends in, empty if it ends in none."""
    match = _NUMBERED.fullmatch(name)
    return match[2] if match else ""


def _aliases(aliases: Sequence[str], container: Mapping[str, Any]) -> list[str]:
    own = {str(container["Id"])[:12], str(container["Name"]).lstrip("/")}
    return [alias for alias in aliases if alias not in own]


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value
