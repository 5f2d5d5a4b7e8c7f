"""Settings of runs for every back end of tpu_scripts, with spaces where they may stand."""

from pathlib import Path

CLOUD = "GPST_PROJECT=my-project GPST_ZONE=us-west4-a GPST_BUCKET=my-bucket"
BACKENDS = {
    "queued": f"{CLOUD} GPST_TOPOLOGY=v5e:4x4 GPST_SPOT=true",
    "queued_slices": f"{CLOUD} GPST_TOPOLOGY=v4:2x2x2 GPST_NUM_SLICES=2 GPST_RESERVED=true "
    "GPST_NETWORK=my-net GPST_SERVICE_ACCOUNT=me@my-project.iam.gserviceaccount.com",
    "mig": f"{CLOUD} GPST_TOPOLOGY=v5p:2x2x2 GPST_SPOT=true",
    "mig_slices": f"{CLOUD} GPST_TOPOLOGY=v6e:4x4 GPST_NUM_SLICES=2 GPST_RESERVED=true "
    "GPST_RESERVATION=my-block GPST_NETWORK=my-net",
    "gke": f"{CLOUD} GPST_TOPOLOGY=tpu7x:2x2x2 GPST_CLUSTER=my-cluster GPST_IMAGE=eu.gcr.io/p/i:1",
    "gke_slices": f"{CLOUD} GPST_TOPOLOGY=v5p:2x2x2 GPST_NUM_SLICES=2 GPST_SPOT=true "
    "GPST_CLUSTER=my-cluster GPST_IMAGE=eu.gcr.io/p/i:1 GPST_QUEUE=multislice-queue",
    "slurm": "GPST_TOPOLOGY=gpu:2x8 GPST_PARTITION=big GPST_CODE='/shared/my code'",
    "slurm_cpu": "GPST_TOPOLOGY=cpu:2x4 GPST_CPUS=16 GPST_CODE=/shared/code",
}


def write_settings(path: Path, backend: str) -> Path:
    path.write_text(
        f"GPST_NAME=tiny GPST_BACKEND={backend.split('_')[0]}\n{BACKENDS[backend]}\n"
        "GPST_CONFIG='my configs/tiny.py' GPST_WORKDIR='/mnt/gpst/my runs' GPST_DATA=/mnt/gpst/t\n"
    )
    return path
