# Training and tokenising on CPUs: tests of a launch, preflight, workers of a corpus.
#
#   docker build --file docker/cpu.Dockerfile --tag gpst_jax:cpu .

FROM python:3.11.13-bookworm AS build
WORKDIR /opt/gpst_jax
COPY requirements requirements
RUN python -m venv /opt/venv && \
    /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps \
      --require-hashes --requirement requirements/py311.txt

FROM python:3.11.13-slim-bookworm
RUN useradd --create-home --uid 1000 gpst
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    JAX_PLATFORMS=cpu \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1
WORKDIR /opt/gpst_jax
COPY . .
RUN python -m pip install --no-cache-dir --disable-pip-version-check --no-deps \
      --no-build-isolation --editable .
USER 1000
CMD ["python", "-m", "experiments.pretrain", "--help"]
