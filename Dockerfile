# The workbook with everything it needs, for a classroom, Codespaces and VS Code.
#
#   docker build -t integration-week .                          the CPU build
#   docker build -t integration-week --build-arg DEVICE=cuda .  for a GPU box (run it with --gpus all)
FROM debian:bookworm-slim
ARG DEVICE=cpu

# libnuma: vLLM for the CPU. A compiler and Python's headers: on a GPU, kernels are compiled when
# they are first needed.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates g++ git libnuma1 make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 --shell /bin/bash student \
    && install --directory --owner student --group student /workbook /workbook/results /opt/venv
USER student
WORKDIR /workbook
ENV VENV=/opt/venv PATH=/opt/venv/bin:$PATH

# This layer is built again only when a dependency changes, not when a notebook does.
COPY --chown=student Makefile setup.sh pyproject.toml requirements.txt requirements-cpu.txt ./
COPY --chown=student helpers/__init__.py helpers/
RUN make setup DEVICE=$DEVICE && rm -rf /home/student/.cache

COPY --chown=student . .
EXPOSE 8888
# All addresses of the container: `docker run -p 127.0.0.1:8888:8888` lets in this machine alone,
# and JupyterLab asks for its token.
CMD ["make", "lab", "ARGS=--ip 0.0.0.0 --port 8888"]
