# Pulsar with what the functions need: every role of a cluster runs from this image.
#
# The base has the distribution in /pulsar, a Java, and a Python with venv, as Pulsar's own image.
ARG PULSAR_IMAGE=apachepulsar/pulsar:4.0.8

FROM ${PULSAR_IMAGE} AS dependencies
USER root
COPY containers/functions.lock /
# A pip configuration (mirrors, certificates) can be handed over as the secret `pip`.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/functions \
 && /opt/functions/bin/pip install --no-cache-dir --no-compile --require-hashes -r /functions.lock \
 && /opt/functions/bin/pip uninstall --yes pip \
 && find /opt/functions -depth \( -name tests -o -name include -o -name '*.pyx' -o -name '*.a' \) \
      -path '*/site-packages/*' -exec rm -rf {} +

FROM ${PULSAR_IMAGE}
USER root
COPY --from=dependencies /opt/functions /opt/functions
COPY containers/pulsar/serve.py scripts/devstack/secure_broker.py scripts/devstack/instance.py /opt/
# Volumes take over the owner of these folders.
RUN mkdir -p /pulsar/data /pulsar/logs /pulsar/download \
 && chown -R 10000:10000 /pulsar/data /pulsar/logs /pulsar/download
# The functions worker starts the first `python3` of the path.
ENV PATH=/opt/functions/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 10000:10000
WORKDIR /pulsar
ENTRYPOINT ["python3", "/opt/serve.py"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="data-distribution-service/pulsar" \
      org.opencontainers.image.description="Apache Pulsar with the functions' Python dependencies" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
HEALTHCHECK --interval=10s --timeout=10s --start-period=120s --retries=6 \
    CMD ["python3", "/opt/serve.py", "healthy", "broker"]
