# DetSeg3D in a container. It runs without network, as a user without rights, and with a read-only root.
#
#   docker build -t detseg3d .                                                                    # for CPUs
#   docker build -t detseg3d:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .  # for NVIDIA GPUs
#   docker run --rm --network none --read-only --tmpfs /tmp -v "$PWD/data:/data" -u "$(id -u):$(id -g)" detseg3d \
#       detseg3d_predict -i /data/scans -o /data/predictions -d 101
#
# docs/how_to/containers.md explains the flags.
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /opt/detseg3d

# The version of make does not matter.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

COPY Makefile setup.py pyproject.toml constraints.txt README.md LICENSE ./
COPY detseg3d ./detseg3d

# The same steps as in `make demo`. All modules are compiled here, because a read-only container cannot store the result
# of compiling them later.
RUN make runtime PIP_FLAGS="--no-cache-dir --extra-index-url ${TORCH_INDEX}" \
    && .venv/bin/python -m compileall -q .venv/lib detseg3d \
    && useradd --create-home --uid 1000 detseg3d \
    && mkdir /data && chown detseg3d /data

# Matplotlib needs a folder for its list of fonts. The data set folders are the defaults of the commands.
ENV PATH=/opt/detseg3d/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp \
    detseg3d_raw=/data/raw \
    detseg3d_preprocessed=/data/preprocessed \
    detseg3d_results=/data/results

USER 1000
WORKDIR /data
CMD ["detseg3d", "--help"]
