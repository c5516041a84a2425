# What the compose files take from Docker Hub, from Debian's packages: Redis, HAProxy and Prometheus in one image. Grafana is not
# in Debian.
FROM debian:bookworm-slim
RUN apt-get update -q \
 && apt-get install -y -q --no-install-recommends haproxy prometheus redis-server \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && mkdir -p /data /prometheus && chown redis /data
