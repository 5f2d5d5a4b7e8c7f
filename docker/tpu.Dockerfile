# Training on TPUs; what tpu_scripts/sync.sh builds for GKE. Runs as root: the chips are device files
# of the host that belong to root.
#
#   docker build --file docker/tpu.Dockerfile --tag gpst_jax:tpu .

FROM python:3.11.13-bookworm AS build
WORKDIR /opt/gpst_jax
COPY requirements requirements
COPY docker/py311-tpu.txt docker/
RUN python -m venv /opt/venv && \
    /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps \
      --require-hashes --requirement requirements/py311.txt --requirement docker/py311-tpu.txt

FROM python:3.11.13-slim-bookworm
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1
WORKDIR /opt/gpst_jax
COPY . .
RUN python -m pip install --no-cache-dir --disable-pip-version-check --no-deps \
      --no-build-isolation --editable .
CMD ["python", "-m", "experiments.pretrain", "--help"]
