# One image for api, engine, worker and migrate: the command chooses (see docker-compose.yml).
FROM python:3.11-slim-bookworm

# pip's arguments for torch. The default is the CPU build; for a GPU: --build-arg TORCH=torch==2.13.0
ARG TORCH="torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu"

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 ALMANAC_DATA_DIR=/data
WORKDIR /srv/almanac

# pg_dump and pg_restore, which backups of Postgres 15 call.
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-client-15 \
    && rm -rf /var/lib/apt/lists/*
# What changes rarely first: a change of code alone installs nothing again.
RUN pip install ${TORCH}
COPY pyproject.toml constraints.txt README.md ./
RUN mkdir app tasks migrations && touch app/__init__.py tasks/__init__.py migrations/__init__.py \
    && pip install -c constraints.txt -e '.[train]'
COPY . .

RUN useradd --create-home --uid 1000 almanac && install -d -o almanac -m 700 /data
USER almanac
VOLUME /data
EXPOSE 8000
CMD ["almanac", "api"]
