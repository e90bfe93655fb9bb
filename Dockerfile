# The worker's image: code and libraries. Weights stay outside, on /models.
# torch's wheels bring CUDA along, so a plain Python base is enough; the host needs NVIDIA's container runtime.
ARG BASE_IMAGE=python:3.12-slim-bookworm

# Libraries alone, so that a change to the code does not install gigabytes anew.
FROM ${BASE_IMAGE} AS libraries
COPY requirements/worker.txt /requirements/worker.txt
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install --no-cache-dir --no-compile --require-hashes -r /requirements/worker.txt

FROM ${BASE_IMAGE} AS wheel
COPY requirements/build.txt /requirements/build.txt
RUN python3 -m venv /opt/build \
    && /opt/build/bin/python -m pip install --no-cache-dir --require-hashes -r /requirements/build.txt
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY worker worker
RUN /opt/build/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 worker \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin worker \
    && install --directory --owner 10001 --group 10001 /models /compiled
# For the fast path: Triton compiles the C that launches its kernels. Without a compiler the worker draws eagerly.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=libraries /opt/venv /opt/venv
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/venv/bin/python -m pip install --no-cache-dir --no-compile --no-deps --no-index /wheels/*.whl
# Bytecode is not written: the root file system is read-only where it runs.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    HF_HOME=/models/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/compiled \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
USER 10001:10001
EXPOSE 8007
# Liveness only: a worker whose Kafka or S3 is away waits for them and must not be restarted.
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('HTTP_PORT', '8007')}/health\", timeout=4)"]
ENTRYPOINT ["sdxl-worker"]
CMD ["run"]
