# ropewalk in a container: `docker build --target cuda -t ropewalk .`, or --target cpu for preparation and small trials.
# The wheels of torch carry the CUDA libraries; the machine gives the driver (NVIDIA's container toolkit).
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS base
# A compiler, because torch.compile and Triton build kernels when they are first used.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 ropewalk && mkdir /work && chown ropewalk /work
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

FROM base AS cpu
# The index of torch's wheels without CUDA, such as your site's; empty: the default one, whose wheels are larger.
ARG TORCH_INDEX=""
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY recipes recipes
COPY src src
RUN pip install --constraint constraints.txt ".[fast,parquet,html,lora]"
USER ropewalk
WORKDIR /work
CMD ["ropewalk", "--help"]

# The default index of torch has the wheels with CUDA, so this is the image above with Liger's kernels.
FROM cpu AS cuda
USER root
WORKDIR /src
RUN pip install --constraint constraints.txt ".[liger]"
USER ropewalk
WORKDIR /work
CMD ["ropewalk", "--help"]
