# Training on NVIDIA GPUs; the driver is the host's, CUDA comes with the wheels.
#
#   docker build --file docker/cuda.Dockerfile --tag gpst_jax:cuda .

FROM python:3.11.13-bookworm AS build
WORKDIR /opt/gpst_jax
COPY requirements requirements
COPY docker/py311-cuda.txt docker/
RUN python -m venv /opt/venv && \
    /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps \
      --require-hashes --requirement requirements/py311.txt --requirement docker/py311-cuda.txt

FROM python:3.11.13-slim-bookworm
RUN useradd --create-home --uid 1000 gpst
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1
WORKDIR /opt/gpst_jax
COPY . .
RUN python -m pip install --no-cache-dir --disable-pip-version-check --no-deps \
      --no-build-isolation --editable .
USER 1000
CMD ["python", "-m", "experiments.pretrain", "--help"]
