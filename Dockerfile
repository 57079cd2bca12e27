# vla_cl on a CPU, with software EGL: no GPU, no display.
#
#   docker build --tag vla_cl .
#   docker run --rm --volume "$PWD/runs:/work/runs" vla_cl quickstart
#   docker run --rm --interactive --tty --volume "$PWD:/work" vla_cl run suite=mw5 policy=lowdim strategy=replay
#
# docs/docker.md says more.
FROM python:3.11-slim-bookworm

# EGL draws through Mesa, OSMesa is what is left where EGL fails; gcc and libc6-dev, which brings the kernel's headers,
# compile evdev, which robosuite asks for.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        gcc \
        libc6-dev \
        libegl1 \
        libgl1 \
        libgl1-mesa-dri \
        libgles2 \
        libosmesa6 \
    && rm -rf /var/lib/apt/lists/*

# PyTorch's wheels for the CPU are a tenth of those with CUDA. For a GPU: --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch==2.13.0"

WORKDIR /opt/vla_cl
COPY pyproject.toml README.md LICENSE ./
COPY vla_cl ./vla_cl
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[ray]"

# Nobody needs root inside; runs, demonstrations and caches belong to this user.
RUN useradd --create-home --uid 1000 robot && mkdir /work && chown robot:robot /work
USER 1000
WORKDIR /work

# One thread a process: vla-cl runs processes side by side.
ENV MUJOCO_GL=egl \
    PYOPENGL_PLATFORM=egl \
    OMP_NUM_THREADS=1 \
    PYTHONUNBUFFERED=1

COPY --chmod=755 scripts/docker_entry.sh /usr/local/bin/vla-cl-entry
ENTRYPOINT ["vla-cl-entry"]
CMD ["--help"]
