FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS build
# `--build-arg LOCK=requirements-optional.lock` adds what is optional: traces, and Redis.
ARG LOCK=requirements.lock
COPY requirements*.lock ./
# With what the base image has: nothing is installed whose hash is not in the lock.
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --no-cache-dir --require-hashes -r "$LOCK"

FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
RUN useradd --system --no-create-home --uid 10001 app
COPY --from=build /venv /venv
WORKDIR /app
COPY . .
RUN python -m compileall -q .
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 APP_ENV=prod
# The parent of the workers never imports the service, so it is told how to log.
ENV UVICORN_LOG_CONFIG=deploy/logging.json
# Limits for slow and oversized requests.
ENV UVICORN_HTTP=kernel.http.server:Protocol
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
# The exec form, and no `uv run`: SIGTERM has to reach uvicorn itself. Connections are kept for longer
# than a load balancer keeps them (60 s), so that it is never the service which closes one under a
# request; those without a request count for the concurrency limit. A new worker has 20 s to start:
# uvicorn's 5 are not enough on a share of a processor.
CMD ["uvicorn", "service:app", "--host", "0.0.0.0", "--workers", "2", "--timeout-keep-alive", "75", "--limit-concurrency", "1000", "--timeout-graceful-shutdown", "10", "--timeout-worker-healthcheck", "20"]
