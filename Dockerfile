# Any image with Debian's or Docker's Python >= 3.11 and its venv module; both stages must be the same, or the venv breaks.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder

# Where pip finds torch: empty for its usual index, else one that has the build for your CPU or your CUDA.
ARG TORCH_INDEX_URL=""

# Which onnxruntime: the package of that name runs on the CPU alone, and is 270 MB smaller.
ARG ONNXRUNTIME=onnxruntime-gpu

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /build
COPY constraints.txt ./

# pip lives beside what it installs, so that the served environment has none.
RUN python3 -m venv pip \
 && pip/bin/python -m pip install -c constraints.txt pip \
 && python3 -m venv --without-pip /opt/normserve

# The largest first: what changes least is the lowest layer. torch's tests and C++ headers, 190 MB, are of no use here.
RUN pip/bin/pip --python /opt/normserve/bin/python install -c constraints.txt --only-binary :all: \
    ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} torch \
 && find /opt/normserve -type f -regex '.*/site-packages/torch/\(bin\|include\|test\)/.*' ! -name torch_shm_manager -delete

# The other dependencies, by the project's own declaration over empty packages: a change of the sources installs none of them again.
# Without scikit-learn, which brings the digits that the example network is trained with, and 200 MB.
COPY pyproject.toml ./
RUN sed -i -e "s/\"onnxruntime-gpu==/\"${ONNXRUNTIME}==/" -e '/"scikit-learn/d' pyproject.toml \
 && touch README.md \
 && mkdir -p proto/normserve_proto client/normserve models/normserve_models server/normserve_server \
 && pip/bin/pip --python /opt/normserve/bin/python install -c constraints.txt --build-constraint constraints.txt \
    --only-binary :all: ".[server,tracing,dashboards]"

COPY README.md ./
COPY proto/normserve_proto proto/normserve_proto
COPY client/normserve client/normserve
COPY models/normserve_models models/normserve_models
COPY server/normserve_server server/normserve_server
RUN pip/bin/pip --python /opt/normserve/bin/python install --build-constraint constraints.txt \
    --no-deps --force-reinstall .


FROM ${BASE_IMAGE}

LABEL org.opencontainers.image.title="normserve" \
      org.opencontainers.image.description="Serves neural networks whose batch norm has been folded away, over gRPC"

# A number that no distribution gives to anyone, and that Kubernetes can check with runAsNonRoot. It owns the two folders,
# because a new named volume takes its owner from the folder it is mounted on.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin normserve \
 && install -d -o normserve -g normserve /models /var/cache/normserve /var/lib/normserve

COPY --from=builder /opt/normserve /opt/normserve
COPY deploy/healthcheck.py /usr/local/lib/normserve/healthcheck.py

# onnxruntime's packages report their use to their maker unless they are told not to.
ENV PATH=/opt/normserve/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NORMSERVE_HOST=0.0.0.0 \
    NORMSERVE_GRPC_PORT=8001 \
    NORMSERVE_HTTP_PORT=8002 \
    NORMSERVE_REPOSITORY=/models \
    NORMSERVE_CACHE_DIR=/var/cache/normserve \
    NORMSERVE_STATE=/var/lib/normserve/normalizers.db

# With the root file system read-only these are the places that are written to, apart from /tmp.
VOLUME /var/cache/normserve /var/lib/normserve
USER 10001:10001
EXPOSE 8001 8002
STOPSIGNAL SIGTERM

# Live, not ready: whoever acts on this restarts the container, which mends a server that hangs, but not a model that
# does not load, and would cut short one that is still being folded.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-I", "/usr/local/lib/normserve/healthcheck.py", "live"]

ENTRYPOINT ["normserve", "serve"]
