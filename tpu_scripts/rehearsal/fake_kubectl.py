"""A fake of the kubectl commands used by tpu_scripts, and of the JobSet controller.

A pod is a directory below hosts/, and a process. As with the real controller, one failed pod ends
all; they are recreated at most `maxRestarts` times, and not after an exit code that is in the pod
failure policy.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from world import World, fail, flag

GRACE_SECONDS = 20


def main() -> None:
    """Handles one call."""
    words = sys.argv[1:]
    world = World()
    if words[0] == "controller":
        _control(world, words[1])
        return
    world.call("kubectl", words)
    behind = words.index("--") if "--" in words else len(words)
    plain = [word for word in words[:behind] if not word.startswith("-")]
    match plain:
        case ["apply"]:
            if flag(words, "filename") == "-":
                json.load(sys.stdin)
        case ["create"]:
            _create(world, json.load(sys.stdin))
        case ["get", "jobset", name]:
            job = _jobset(world, name)
            end = job["end"]
            print(end if "jsonpath" in flag(words, "output") else f"{name} {job['restarts']} {end}")
        case ["get", "pods"]:
            name = flag(words, "selector").split("=")[1]
            job = world.state()["resources"].get(f"jobsets/{name}", {})
            if "exitCode" in flag(words, "output"):
                print(*job.get("codes", []), sep="\n")
                return
            for pod in job.get("hosts", []):
                print(f"pod/{pod}")
        case ["exec", pod]:
            raise SystemExit(_run(world, pod.removeprefix("pod/"), words[behind + 1 :]).wait())
        case ["logs", pod]:
            log = world.home(pod.removeprefix("pod/")) / "log"
            print(*log.read_text().splitlines()[-int(flag(words, "tail")) :], sep="\n")
        case ["delete", "jobset", name]:
            _delete(world, name)
        case ["delete", "secret", _]:
            return
        case _:
            fail(f'error: unknown command "{" ".join(plain)}"')


def _jobset(world: World, name: str) -> dict[str, Any]:
    job = world.state()["resources"].get(f"jobsets/{name}")
    if job is None:
        fail(f'Error from server (NotFound): jobsets.jobset.x-k8s.io "{name}" not found')
    return job or {}


def _create(world: World, value: dict[str, Any]) -> None:
    name = value["metadata"]["name"]
    with world.change() as state:
        if f"jobsets/{name}" in state["resources"]:
            fail(f'Error from server (AlreadyExists): jobsets.jobset.x-k8s.io "{name}" exists')
        job = {"value": value, "end": "", "restarts": 0}
        state["resources"][f"jobsets/{name}"] = job
    subprocess.Popen(
        [sys.executable, __file__, "controller", name],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(world.path / "controller.log").open("a"),
    )
    print(f"jobset.jobset.x-k8s.io/{name} created")


def _delete(world: World, name: str) -> None:
    """Deletes a JobSet: SIGTERM, then SIGKILL after the grace period."""
    job = world.state()["resources"].get(f"jobsets/{name}", {})
    with world.change() as state:
        state["resources"].pop(f"jobsets/{name}", None)
    _end(world, job.get("hosts", []), 15)


def _end(world: World, pods: list[str], number: int) -> None:
    for pod in pods:
        world.kill(pod, number=number)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(world.processes(pod) for pod in pods) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pod in pods:
        world.kill(pod)


def _run(world: World, pod: str, command: list[str], log: Any = None) -> subprocess.Popen[bytes]:
    name = world.home(pod) / "image"
    if not name.is_dir():
        fail(f'Error from server (NotFound): pods "{pod}" not found')
    # Through a shell, so that the program is found on the pod's PATH, not on that of this call.
    words = ["bash", "-c", 'exec "$@"', "pod", *command]
    return subprocess.Popen(words, cwd=name, env=world.environment(pod), stdout=log, stderr=log)


def _control(world: World, name: str) -> None:
    """Acts as the controller of one JobSet until it ends or is deleted."""
    value = _jobset(world, name)["value"]
    [replicated] = value["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    final = job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    pods = [
        f"{name}-{replicated['name']}-{slice_}-{index}"
        for slice_ in range(replicated["replicas"])
        for index in range(job["parallelism"])
    ]
    image = world.path / "images" / container["image"].replace("/", "-")
    end, restarts = "", 0
    while not end:
        world.add_hosts(f"jobsets/{name}", pods)
        started = []
        for pod in pods:
            shutil.copytree(image, world.home(pod) / "image", symlinks=True)
            log = (world.path / f"{pod}.log").open("ab")
            (world.home(pod) / "log").symlink_to(Path(log.name))
            started.append(_run(world, pod, container["command"], log))
        codes: list[int | None] = [None]
        while None in codes and not any(codes):
            time.sleep(0.2)
            codes = [process.poll() for process in started]
            if f"jobsets/{name}" not in world.state()["resources"]:
                return
        if any(code in final for code in codes):
            end = "Failed=FailJobSetFailurePolicyAction"
        elif any(codes):
            _end(world, pods, 15)
            restarts += 1
            if restarts > value["spec"]["failurePolicy"]["maxRestarts"]:
                end = "Failed=ReachedMaxRestarts"
        else:
            end = "Completed=AllJobsCompleted"
        with world.change() as state:
            if current := state["resources"].get(f"jobsets/{name}"):
                current |= {"end": end, "restarts": restarts, "codes": [c for c in codes if c]}


if __name__ == "__main__":
    main()
