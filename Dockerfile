# The command `segbundles` in an image, from a clone of the repository:
#   docker build --tag segbundles .
#   docker build --tag segbundles:cuda --build-arg DEVICE=cuda .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" segbundles check DATASET
# With CUDA also: --gpus all. The wheels bring CUDA's libraries; the host needs NVIDIA's driver and container toolkit.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

ARG DEVICE=cpu
# PyPI's torch for Linux brings CUDA; the one without, a tenth of the size, is on PyTorch's own index for CPUs, whose address
# can be given here.
ARG CPU_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /opt/segbundles
# The large packages first: they are installed again only when what is required changes.
COPY constraints.txt pipelines/deployment/requirements.txt ./
RUN if [ "$DEVICE" = cuda ]; then \
        pip install --constraint constraints.txt torch; \
    else \
        pip install --constraint constraints.txt ${CPU_INDEX:+--index-url "$CPU_INDEX"} torch; \
    fi
RUN pip install --constraint constraints.txt --requirement requirements.txt

COPY setup.py setup.cfg pyproject.toml README.md LICENSE ./
COPY networks networks
COPY transforms transforms
COPY pipelines pipelines
COPY bundles bundles
RUN pip install --no-deps .

# Data and results: a folder of the host. Whoever runs the image need not be a user of it.
ENV HOME=/tmp
WORKDIR /work
RUN segbundles --version
ENTRYPOINT ["segbundles"]
CMD ["--help"]
