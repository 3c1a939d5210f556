FROM python:3.13-slim AS build
RUN pip install --no-cache-dir uv
COPY requirements.lock .
RUN uv venv /venv \
    && uv pip install --python /venv --no-cache --compile-bytecode --require-hashes -r requirements.lock

FROM python:3.13-slim
RUN useradd --system --no-create-home --uid 10001 app
COPY --from=build /venv /venv
WORKDIR /app
COPY . .
RUN python -m compileall -q .
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 APP_ENV=prod
# The parent of the workers never imports the service, so it is told how to log.
ENV UVICORN_LOG_CONFIG=deploy/logging.json
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
# The exec form, and no `uv run`: SIGTERM has to reach uvicorn itself.
CMD ["uvicorn", "service:app", "--host", "0.0.0.0", "--workers", "2", "--timeout-graceful-shutdown", "10"]
