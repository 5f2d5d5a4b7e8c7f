"""Injects faults into a rehearsed run, each at a random step.

    chaos.py WORLD METRICS_FILE RESOURCE STEPS SEED FAULT...

Faults: `process` (the training process of one host is killed), `host` (all processes of one host
are killed), `preempt` (all slices are preempted: SIGTERM to all hosts, and SIGKILL before they can
save).
"""

import contextlib
import json
import random
import signal
import sys
import time
from pathlib import Path

from world import World


def reached(metrics: Path) -> int:
    """The last step in the metrics file."""
    step = 0
    with contextlib.suppress(OSError):
        for line in metrics.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                step = max(step, json.loads(line)["step"])
    return step


def main() -> None:
    """Runs until all faults are injected."""
    path, metrics, resource, steps, seed, *faults = sys.argv[1:]
    world, rng = World(path), random.Random(int(seed))
    # Spread over the run, so that it has recovered from a fault before the next one.
    share = int(steps) / (len(faults) + 1)
    for number, fault in enumerate(faults, 1):
        wanted = round(share * number + rng.uniform(-0.3, 0.3) * share)
        while reached(Path(metrics)) < wanted:
            time.sleep(0.02)
        while not play(world, resource, fault, rng):
            time.sleep(0.02)
        world.played(f"{fault}: at step {reached(Path(metrics))}")


def play(world: World, resource: str, fault: str, rng: random.Random) -> bool:
    """Injects one fault; False where no process was running, as between two starts."""
    hosts = world.state()["resources"].get(resource, {}).get("hosts", [])
    if not all(world.processes(host, "experiments.pretrain") for host in hosts) or not hosts:
        return False
    if fault == "preempt":
        with world.change() as state:
            state["resources"][resource]["state"] = rng.choice(["SUSPENDED", "SUSPENDING"])
            if resource.endswith("-0"):  # instance groups have other states
                state["resources"][resource]["state"] = "TERMINATED"
        for host in hosts:
            world.kill(host, number=signal.SIGTERM)
        time.sleep(rng.uniform(0, 0.5))
        for host in hosts:
            world.kill(host)
        return True
    victim = rng.choice(hosts)
    return world.kill(victim, "experiments.pretrain" if fault == "process" else "") > 0


if __name__ == "__main__":
    main()
