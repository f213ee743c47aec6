# celery-exporter, which pins older versions of what the program is made with, and so has an image of its own. Build it from the
# top of the repository:
#
#   docker build -f deploy/exporter.Dockerfile -t cni-cleanup-exporter .
FROM python:3.12-slim AS build

WORKDIR /source
COPY requirements/exporter.txt requirements/exporter.txt
# The package installs no command, and as the first process of a container it would not end by SIGTERM.
RUN python -m venv --without-pip /opt/celery-exporter \
 && pip --python /opt/celery-exporter/bin/python install --no-cache-dir --no-compile --require-hashes -r requirements/exporter.txt \
 && printf '%s\n' '#!/opt/celery-exporter/bin/python' 'import signal, sys' 'from src.cli import cli' \
      'signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))' 'cli(auto_envvar_prefix="CE")' \
      >/opt/celery-exporter/bin/celery-exporter \
 && chmod 0755 /opt/celery-exporter/bin/celery-exporter \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/celery-exporter/lib


FROM python:3.12-slim

LABEL org.opencontainers.image.title="cni-cleanup-exporter" \
      org.opencontainers.image.description="celery-exporter, as cni-cleanup runs it" \
      org.opencontainers.image.licenses="MIT"

COPY --from=build /opt/celery-exporter /opt/celery-exporter

ENV PATH=/opt/celery-exporter/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PROMETHEUS_DISABLE_CREATED_SERIES=True

USER 10001:10001
STOPSIGNAL SIGTERM

# What each flag is for is in docs/flower.md. The broker comes by CE_BROKER_URL.
ENTRYPOINT ["celery-exporter"]
CMD ["--host", "*", "--port", "9808", "--buckets", "10,60,120,600,3000", \
     "--purge-offline-worker-metrics", "86400", "--retry-interval", "10"]
