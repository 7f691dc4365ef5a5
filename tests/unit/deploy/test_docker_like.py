"""A container like another: what was said for it stays, what came with its image goes."""

from typing import Any

from rumor.deploy.docker_like import container_like, member_of, next_names

IMAGE: dict[str, Any] = {
    "Config": {
        "Env": ["PATH=/bin", "RUMOR_ROLE=web"],
        "Cmd": ["rumor", "supervise"],
        "User": "rumor",
        "Labels": {"maker": "us"},
        "Volumes": {"/var/lib/rumor": {}},
    }
}
CONTAINER: dict[str, Any] = {
    "Id": "0123456789abcdef",
    "Name": "/shop_web_3",
    "Config": {
        **IMAGE["Config"],
        "Hostname": "0123456789ab",
        "Image": "shop:1",
        "Env": ["PATH=/bin", "RUMOR_ROLE=web", "RUMOR_JOIN=balancer", "DB=a=b"],
        "Labels": {"maker": "us", "com.docker.compose.service": "web", "com.docker.compose.container-number": "3"},
        "StopTimeout": 20,
    },
    "HostConfig": {"ReadonlyRootfs": True, "Tmpfs": {"/tmp": ""}, "NetworkMode": "shop_rumor"},
    "NetworkSettings": {
        "Networks": {
            "shop_rumor": {"Aliases": ["web", "0123456789ab"], "IPAddress": "192.168.42.4", "Links": None},
            "shop_back": {"Aliases": ["web"], "IPAddress": "10.1.1.4", "Links": None},
        }
    },
}


def test_what_was_said_for_it_stays_and_what_its_image_said_goes() -> None:
    wanted = container_like(CONTAINER, IMAGE, image="shop:2", environment={"VERSION": "2"}, name="shop_web_7")
    assert wanted.config == {
        "Image": "shop:2",
        "Env": ["DB=a=b", "RUMOR_JOIN=balancer", "VERSION=2"],
        "Labels": {"com.docker.compose.service": "web", "com.docker.compose.container-number": "7"},
        "StopTimeout": 20,
        "HostConfig": CONTAINER["HostConfig"],
        "NetworkingConfig": {"EndpointsConfig": {"shop_rumor": {"Aliases": ["web"], "Links": None}}},
    }
    assert wanted.more_networks == {"shop_back": {"Aliases": ["web"], "Links": None}}
    assert "IPAddress" not in str(wanted)


def test_a_command_or_variable_of_its_own_is_kept() -> None:
    own = {**CONTAINER, "Config": {**CONTAINER["Config"], "Cmd": ["sh"], "User": "0"}}
    wanted = container_like(own, IMAGE, image="shop:2", environment={"DB": "c"}, name="x-1")
    assert (wanted.config["Cmd"], wanted.config["User"]) == (["sh"], "0")
    assert wanted.config["Env"] == ["DB=c", "RUMOR_JOIN=balancer"]


def test_names_go_on_where_the_last_one_ended() -> None:
    assert next_names("shop_web_3", ["shop_web_1", "shop_web_12", "shop_db_40"], 2) == ["shop_web_13", "shop_web_14"]
    assert next_names("web", [], 1) == ["web-1"]
    assert next_names("web", ["web-1"], 1) == ["web-2"]


def test_the_first_network_is_the_one_that_the_container_was_made_in() -> None:
    more = {**CONTAINER, "HostConfig": {**CONTAINER["HostConfig"], "NetworkMode": "shop_back"}}
    wanted = container_like(more, IMAGE, image="shop:2", environment={}, name="shop_web_7")
    assert list(wanted.config["NetworkingConfig"]["EndpointsConfig"]) == ["shop_back"]
    assert list(wanted.more_networks) == ["shop_rumor"]
    plain = {
        **CONTAINER,
        "HostConfig": {"NetworkMode": "default"},
        "NetworkSettings": {"Networks": {"a": {"Aliases": None}, "bridge": {"Aliases": None}}},
    }
    wanted = container_like(plain, IMAGE, image="shop:2", environment={}, name="shop_web_7")
    assert list(wanted.config["NetworkingConfig"]["EndpointsConfig"]) == ["bridge"]


def test_a_volume_that_nobody_named_is_not_shared_with_the_new_container() -> None:
    own = "0123456789abcdef" * 4
    host = {
        **CONTAINER["HostConfig"],
        "Binds": [f"{own}:/var/lib/rumor:rw", "/srv/logs:/logs:rw", "shop_data:/data"],
        "Mounts": [
            {"Type": "volume", "Source": own, "Target": "/a"},
            {"Type": "bind", "Source": "/etc/x", "Target": "/x"},
        ],
    }
    wanted = container_like({**CONTAINER, "HostConfig": host}, IMAGE, image="shop:2", environment={}, name="shop_web_7")
    assert wanted.config["HostConfig"]["Binds"] == ["/srv/logs:/logs:rw", "shop_data:/data"]
    assert [mount["Target"] for mount in wanted.config["HostConfig"]["Mounts"]] == ["/x"]
    assert len(host["Binds"]) == 3, "what Docker showed is not changed"


def test_a_member_is_called_as_its_container_calls_it() -> None:
    def member(hostname: str, *environment: str) -> str:
        return member_of({"Config": {"Hostname": hostname, "Env": list(environment)}})

    assert member("0123456789ab", "PATH=/bin") == "0123456789ab"
    assert member("shop.example.com") == "shop"
    assert member("0123456789ab", "RUMOR_NODE=web-1") == "web-1"
    assert member("0123456789ab", "RUMOR_NODE=") == "0123456789ab"


def test_the_name_of_a_member_is_not_given_to_a_second_one() -> None:
    named = {**CONTAINER, "Config": {**CONTAINER["Config"], "Env": ["RUMOR_NODE=web-1", "DB=a"]}}
    assert container_like(named, IMAGE, image="shop:2", environment={}, name="x-1").config["Env"] == ["DB=a"]
