"""A fake of the gcloud commands used by tpu_scripts, acting on the world in $GPST_WORLD."""

import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from world import World, fail, flag

Resources = dict[str, dict[str, Any]]


def main() -> None:
    """Handles one call."""
    words = sys.argv[1:]
    world = World()
    world.call("gcloud", words)
    plain = [word for word in words if not word.startswith("-") and word not in ("alpha", "beta")]
    match plain:
        case ["compute", "tpus", "queued-resources", verb, name]:
            _queued(world, verb, name, words)
        case ["compute", "tpus", "tpu-vm", "ssh", node]:
            _ssh(world, f"{node}/{flag(words, 'worker')}", words)
        case ["compute", "tpus", "tpu-vm", "scp", source, target]:
            node, path = target.split(":", 1)
            _scp(world, source, f"{node}/{flag(words, 'worker')}", path)
        case ["compute", "ssh", host]:
            _ssh(world, host, words)
        case ["compute", "scp", source, target]:
            host, path = target.split(":", 1)
            _scp(world, source, host, path)
        case ["compute", "instance-groups", "managed", verb, name]:
            _group(world, verb, name, words)
        case ["compute", "instance-templates" | "resource-policies" as kind, *_, name]:
            _part(world, plain[2], f"{kind}/{name}")
        case ["container", "node-pools", verb, name]:
            _pool(world, verb, name)
        case ["container", "clusters", "get-credentials", _] | ["config", "set", *_]:
            return
        case ["services", "enable", *_]:
            return
        case ["storage", "buckets", "create", bucket]:
            _add(world, bucket, {"state": "READY"})
        case ["storage", "rsync", source, target]:
            if not Path(source).is_dir():
                fail(f"ERROR: (gcloud.storage.rsync) The source directory {source} does not exist")
            _describe(world, "/".join(target.split("/")[:3]))
        case _:
            fail(f"ERROR: (gcloud) Invalid choice: {' '.join(plain)}", 2)


def _missing(name: str) -> None:
    fail(f"ERROR: (gcloud) NOT_FOUND: Resource '{name}' was not found")


def _add(world: World, name: str, resource: dict[str, Any]) -> None:
    with world.change() as state:
        if name in state["resources"]:
            fail(f"ERROR: (gcloud) ALREADY_EXISTS: Resource '{name}' already exists")
        state["resources"][name] = resource


def _remove(world: World, name: str) -> None:
    resource = world.state()["resources"].get(name)
    if resource is None:
        _missing(name)
        return
    for host in resource.get("hosts", []):
        world.kill(host)
        shutil.rmtree(world.home(host), ignore_errors=True)
    with world.change() as state:
        state["resources"].pop(name, None)


def _describe(world: World, name: str) -> dict[str, Any]:
    resource = world.state()["resources"].get(name)
    if resource is None:
        _missing(name)
    return resource or {}


def _queued(world: World, verb: str, name: str, words: list[str]) -> None:
    if verb == "create":
        if accelerator := flag(words, "accelerator-type"):
            chips = int(accelerator.split("-")[1])
        else:
            chips = math.prod(int(size) for size in flag(words, "topology").split("x"))
        hosts = max(chips // 4, 1) if chips > 8 or "v4" in " ".join(words) else 1
        nodes = [flag(words, "node-id")]
        if count := int(flag(words, "node-count", "0")):
            nodes = [f"{flag(words, 'node-prefix')}-{index}" for index in range(count)]
        _add(world, name, {"state": "ACTIVE"})
        world.add_hosts(name, [f"{node}/{worker}" for node in nodes for worker in range(hosts)])
    elif verb == "describe":
        print(_describe(world, name)["state"])
    elif verb == "delete":
        _remove(world, name)


def _group(world: World, verb: str, name: str, words: list[str]) -> None:
    if verb == "create":
        resources = world.state()["resources"]
        for part in ("instance-templates", "resource-policies"):
            if f"{part}/{flag(words, 'template')}" not in resources:
                _missing(f"{part}/{flag(words, 'template')}")
        hosts = [f"{name}-{index:04x}" for index in range(int(flag(words, "size")))]
        _add(world, name, {"state": "RUNNING"})
        world.add_hosts(name, hosts)
    elif verb == "delete":
        _remove(world, name)
    elif verb == "list-instances":
        resource = _describe(world, name)
        shown = re.search("instanceStatus", flag(words, "format"))
        for host in resource["hosts"]:
            print(resource["state"] if shown else host)
    else:
        print(name if _describe(world, name) else "")


def _part(world: World, verb: str, name: str) -> None:
    """Resources without hosts."""
    if verb == "create":
        _add(world, name, {"state": "READY"})
    elif verb == "delete":
        _remove(world, name)
    else:
        print(name if _describe(world, name) else "")


def _pool(world: World, verb: str, name: str) -> None:
    if verb == "create":
        _add(world, f"node-pools/{name}", {"state": "RUNNING"})
    elif verb == "delete":
        _remove(world, f"node-pools/{name}")
    else:
        print(_describe(world, f"node-pools/{name}")["state"])


def _check_reachable(world: World, host: str) -> None:
    for resource in world.state()["resources"].values():
        if host in resource.get("hosts", []) and resource["state"] in ("ACTIVE", "RUNNING"):
            return
    fail(f"ssh: connect to host {host} port 22: Connection timed out", 255)


def _ssh(world: World, host: str, words: list[str]) -> None:
    _check_reachable(world, host)
    raise SystemExit(world.shell(host, flag(words, "command")))


def _scp(world: World, source: str, host: str, path: str) -> None:
    _check_reachable(world, host)
    shutil.copy(source, world.home(host) / path)


if __name__ == "__main__":
    main()
