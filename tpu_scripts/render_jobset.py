"""Writes the Kubernetes objects of a run as JSON, which is valid YAML and avoids quoting.

    render_jobset.py jobset --name=N --image=I ... -- COMMAND...   a JobSet, one Job per slice
    render_jobset.py secret NAME < LINES                           a Secret of lines NAME=VALUE

Called by backends/gke.sh; needs only the standard library. Labels and exclusive placement of a Job
on a node pool are those of xpk, so that `xpk workload list` shows the run. Exit codes 1 to 5 of the
run (see data_pipeline/runtime/exit_codes.py: defect, bad input, diverged, does not fit) and 126 and
127 (no such command) fail the JobSet at once; after any other failure, such as 69 (not ready), all
pods are recreated, at most --max_restarts times.
"""

import argparse
import json
import sys
from typing import Any

# Time for pods to save before they are killed: longer than a save of the largest configuration.
GRACE_SECONDS = 300
CONTAINER = "train"
FINAL_CODES = [1, 2, 3, 4, 5, 126, 127]


def jobset(options: argparse.Namespace, command: list[str]) -> dict[str, Any]:
    """The JobSet of a run.

    Args:
        options: the flags.
        command: the command line of every pod.
    """
    workload = {"xpk.google.com/workload": options.name}
    labels = workload | ({"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {})
    one_pool = {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool",
    }
    job = {
        "parallelism": options.hosts,
        "completions": options.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": CONTAINER,
                        "operator": "In",
                        "values": FINAL_CODES,
                    },
                }
            ]
        },
        "template": _pod(options, command, workload),
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": options.name, "labels": labels, "annotations": one_pool},
        "spec": {
            "failurePolicy": {
                "maxRestarts": options.max_restarts,
                "rules": [
                    {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
                ],
            },
            "replicatedJobs": [
                {"name": "slice-job", "replicas": options.slices, "template": {"spec": job}}
            ],
        },
    }


def _pod(options: argparse.Namespace, command: list[str], labels: dict[str, str]) -> dict[str, Any]:
    chips = str(options.host_chips)
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": options.image,
        "command": command,
        # 8471: between TPUs; 8080 and 8081: between slices; 8482: the JAX coordinator.
        "ports": [{"containerPort": port} for port in (8471, 8080, 8081, 8482)],
        "resources": {
            "requests": {"google.com/tpu": chips},
            "limits": {"google.com/tpu": chips},
        },
        "securityContext": {"privileged": True},  # for access to the TPU device files
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    selector = {
        "cloud.google.com/gke-tpu-accelerator": options.accelerator,
        "cloud.google.com/gke-tpu-topology": options.topology,
    }
    metadata: dict[str, Any] = {"labels": labels}
    if options.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    if options.secret:
        container["envFrom"] = [{"secretRef": {"name": f"{options.name}-environment"}}]
    network: dict[str, Any] = {}
    if not options.bucket:  # faster between slices, but incompatible with the sidecar of the bucket
        network = {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    else:
        metadata["annotations"] = {"gke-gcsfuse/volumes": "true"}
        container["volumeMounts"].append({"name": "bucket", "mountPath": options.mount})
        attributes = {"bucketName": options.bucket, "mountOptions": "implicit-dirs"}
        volumes.append(
            {
                "name": "bucket",
                "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes},
            }
        )
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        **network,
        "nodeSelector": selector,
        "tolerations": [{"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [container],
        "volumes": volumes,
    }
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    return {"metadata": metadata, "spec": spec}


def secret(name: str, lines: list[str]) -> dict[str, Any]:
    """A Secret with an entry for each line NAME=VALUE.

    Args:
        name: of the run.
        lines: without newlines.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{name}-environment"},
        "type": "Opaque",
        "stringData": dict(line.split("=", 1) for line in lines),
    }


def main() -> None:
    """Runs the program; see the module docstring."""
    words = sys.argv[1:]
    command: list[str] = []
    if "--" in words:
        command = words[words.index("--") + 1 :]
        words = words[: words.index("--")]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    kinds = parser.add_subparsers(dest="kind", required=True)
    made = kinds.add_parser("jobset", allow_abbrev=False)
    for flag in ("name", "image", "accelerator", "topology"):
        made.add_argument(f"--{flag}", required=True)
    for flag in ("slices", "hosts", "host_chips", "max_restarts"):
        made.add_argument(f"--{flag}", type=int, required=True)
    for flag in ("queue", "bucket", "mount", "service_account"):
        made.add_argument(f"--{flag}", default="")
    for flag in ("secret", "spot"):
        made.add_argument(f"--{flag}", action="store_true")
    kinds.add_parser("secret").add_argument("name")
    options = parser.parse_args(words)
    if options.kind == "jobset":
        value = jobset(options, command)
    else:
        value = secret(options.name, sys.stdin.read().splitlines())
    print(json.dumps(value, indent=2))


if __name__ == "__main__":
    main()
