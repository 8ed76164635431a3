# The project's own programs: the control plane with the deploy job (target `control-plane`), and the
# demo (target `demo`).
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS dependencies
ARG LOCK=control-plane
COPY containers/${LOCK}.lock /requirements.lock
# A pip configuration (mirrors, certificates) can be handed over as the secret `pip`.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/dds/venv \
 && /opt/dds/venv/bin/pip install --no-cache-dir --no-compile --require-hashes -r /requirements.lock \
 && /opt/dds/venv/bin/pip uninstall --yes pip \
 && find /opt/dds/venv -depth \( -name tests -o -name include -o -name '*.pyx' -o -name '*.a' \) \
      -path '*/site-packages/*' -exec rm -rf {} +

FROM ${PYTHON_IMAGE} AS application
COPY --from=dependencies /opt/dds/venv /opt/dds/venv
ENV PATH=/opt/dds/venv/bin:$PATH \
    PYTHONPATH=/opt/dds \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /opt/dds
COPY pyproject.toml ./
COPY marketdata marketdata
USER 10001:10001
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM application AS demo
COPY scripts scripts
LABEL org.opencontainers.image.title="data-distribution-service/demo" \
      org.opencontainers.image.description="Publishes real bars, consumes them and proves that all arrived"
ENTRYPOINT ["python3", "scripts/demo.py", "--no-prepare"]

FROM application AS control-plane
COPY control_plane control_plane
COPY functions functions
COPY migrations migrations
COPY topology topology
COPY scripts/__init__.py scripts/container_credentials.py scripts/deploy_functions.py scripts/
COPY scripts/devstack/__init__.py scripts/devstack/certificates.py scripts/devstack/
COPY containers/healthy.py ./
# Volumes take over the owner of these folders.
USER root
RUN cd / && install -d -o 10001 -g 10001 credentials credentials/authority credentials/signing-keys \
      credentials/broker credentials/control-plane credentials/proxy credentials/postgresql \
      credentials/prometheus credentials/platform \
 && chmod 700 credentials/authority credentials/signing-keys
USER 10001:10001
LABEL org.opencontainers.image.title="data-distribution-service/control-plane" \
      org.opencontainers.image.description="HTTP API, migrations, topology and the functions' bundle"
EXPOSE 8000
ENV DDS_HTTP_HOST=0.0.0.0 DDS_HTTP_PORT=8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=6 \
    CMD ["python3", "healthy.py"]
CMD ["python3", "-m", "control_plane"]
