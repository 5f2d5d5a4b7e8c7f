"""The JobSet that is rendered: its schema, and what the schema cannot say."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.runtime import exit_codes

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((Path(__file__).parent / "jobset_schema.json").read_text())
FLAGS = {
    "name": "my-run",
    "image": "eu.gcr.io/p/i:1",
    "slices": "2",
    "hosts": "16",
    "host_chips": "4",
    "accelerator": "tpu-v5p-slice",
    "topology": "4x4x4",
    "max_restarts": "20",
}
COMMAND = ["python", "-m", "experiments.pretrain", "--workdir=/mnt/my run"]
COMMAND += ["--config.a.b='c\"d: *&{'"]


def render(*more, **flags):
    given = [f"--{name}={value}" for name, value in (FLAGS | flags).items()]
    words = [sys.executable, ROOT / "tpu_scripts" / "render_jobset.py", "jobset", *given, *more]
    done = subprocess.run([*words, "--", *COMMAND], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def validate():
    import jsonschema  # of the extra dev

    validator = jsonschema.validators.validator_for(SCHEMA)
    validator.check_schema(SCHEMA)

    def errors(value):
        return [error.message for error in validator(SCHEMA).iter_errors(value)]

    return errors


@pytest.mark.parametrize(
    ("more", "flags"),
    [
        ([], {}),
        (
            ["--spot", "--secret"],
            {"bucket": "b", "mount": "/mnt/gpst", "queue": "multislice-queue"},
        ),
        ([], {"slices": "1", "hosts": "1", "service_account": "trainer"}),
    ],
)
def test_it_validates(validate, more, flags):
    assert validate(render(*more, **flags)) == []


def pod(value):
    [job] = value["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda v: v.pop("spec"),
        lambda v: v["metadata"].update(name="My Run"),
        lambda v: v["spec"].update(maxRestarts=3),
        lambda v: v["spec"]["failurePolicy"]["rules"][0].update(action="Restart"),
        lambda v: v["spec"]["replicatedJobs"][0].update(replicas="2"),
        lambda v: pod(v).update(restartPolicy="Always"),
        lambda v: pod(v)["containers"][0]["resources"]["limits"].update({"google.com/tpu": 4}),
        lambda v: pod(v)["nodeSelector"].update({"cloud.google.com/gke-spot": True}),
        lambda v: pod(v)["containers"][0].update(cmd=[]),
    ],
)
def test_the_schema_refuses_what_the_cluster_would(validate, damage):
    value = copy.deepcopy(render())
    damage(value)
    assert validate(value)


def test_one_job_for_each_slice_and_one_pod_for_each_host():
    value = render()
    [job] = value["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert job["replicas"] == 2
    assert spec["parallelism"] == spec["completions"] == 16
    assert spec["completionMode"] == "Indexed"
    assert pod(value)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x4",
    }
    annotations = value["metadata"]["annotations"]
    assert annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"].endswith("/gke-nodepool")


def test_which_ends_are_final_and_how_often_it_restarts():
    value = render(max_restarts="7")
    policy = value["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    assert policy["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    spec = value["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert spec["backoffLimit"] == 0  # one pod alone cannot go on
    [rule] = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    container = pod(value)["containers"][0]["name"]
    values = [*range(1, exit_codes.LAST_FINAL + 1), 126, 127]
    assert rule["onExitCodes"] == {"containerName": container, "operator": "In", "values": values}
    assert exit_codes.NOT_READY not in values
    assert pod(value)["restartPolicy"] == "Never"  # which a pod failure policy asks for


def test_labels_are_those_of_xpk():
    value = render(queue="multislice-queue")
    assert value["metadata"]["labels"] == {
        "xpk.google.com/workload": "my-run",
        "kueue.x-k8s.io/queue-name": "multislice-queue",
    }
    template = value["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert template["metadata"]["labels"] == {"xpk.google.com/workload": "my-run"}
    assert value["spec"]["replicatedJobs"][0]["name"] == "slice-job"


def test_words_arrive_as_they_are():
    assert pod(render())["containers"][0]["command"] == COMMAND


def test_a_secret_holds_lines_and_only_names_it():
    words = [sys.executable, ROOT / "tpu_scripts" / "render_jobset.py", "secret", "my-run"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, input="A=x=y z\n")
    value = json.loads(done.stdout)
    assert value["stringData"] == {"A": "x=y z"}
    assert "x=y" not in json.dumps(render("--secret"))
    reference = pod(render("--secret"))["containers"][0]["envFrom"]
    assert reference == [{"secretRef": {"name": value["metadata"]["name"]}}]
