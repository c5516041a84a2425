#!/usr/bin/env bash
# Installs what normd needs from Debian 12's packages. Safe to run again: it installs only what is missing.
#
#   deploy/install_dependencies.sh build        compile the server, the C++ SDK and normctl
#   deploy/install_dependencies.sh quickstart   build, and the Python side of the quickstart
#   deploy/install_dependencies.sh test         everything that the test command uses
#   deploy/install_dependencies.sh deploy       what tests/deploy/run.sh uses beside that: engines for containers
#   deploy/install_dependencies.sh bench        the benchmarks, with the libraries that they compare with
set -euo pipefail

build=(build-essential ca-certificates ccache cmake git libabsl-dev libcli11-dev libgrpc++-dev libgrpc-dev
       libhiredis-dev libprotobuf-dev libspdlog-dev libsqlite3-dev libssl-dev ninja-build nlohmann-json3-dev pkg-config
       prometheus-cpp-dev protobuf-compiler protobuf-compiler-grpc)
quickstart=("${build[@]}" python3 python3-grpcio python3-numpy python3-pip python3-protobuf python3-setuptools
            python3-sklearn python3-torch python3-venv python3-wheel)
test=("${quickstart[@]}" clang-14 clang-format-14 clang-tidy-14 doxygen g++-aarch64-linux-gnu haproxy iproute2
      libbenchmark-dev libclang-rt-14-dev libgmock-dev libgtest-dev libonnx-testdata lld mkdocs mypy nghttp2-client prometheus
      python3-matplotlib python3-onnx python3-pytest python3-pytest-xdist python3-torchvision python3-tqdm qemu-user
      redis-server shellcheck)
deploy=(catatonit curl docker-compose docker.io iproute2 iptables mmdebstrap openssl podman python3-numpy python3-yaml redis-server
        runc)
bench=("${build[@]}" haproxy libbenchmark-dev libdnnl-dev libtorch-dev python3 python3-grpcio python3-matplotlib python3-numpy
       python3-protobuf python3-torch redis-server)

case "${1:-}" in
  build) wanted=("${build[@]}") ;;
  quickstart) wanted=("${quickstart[@]}") ;;
  test) wanted=("${test[@]}") ;;
  deploy) wanted=("${deploy[@]}") ;;
  bench) wanted=("${bench[@]}") ;;
  *)
    echo "usage: $0 build|quickstart|test|deploy|bench (got '${1:-}')" >&2
    exit 2
    ;;
esac

# npm brings buf, which lints the protos. Any npm will do; Debian's is a long list of small packages.
if [[ $1 == test ]] && ! command -v npm >/dev/null; then
  wanted+=(nodejs npm)
fi

missing=()
for package in "${wanted[@]}"; do
  dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  echo "dependencies: all ${#wanted[@]} packages for '$1' are installed"
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || {
    echo "$0: ${#missing[@]} packages are missing and this is not root: run it as root, or install sudo" >&2
    exit 1
  }
  as_root=(sudo)
fi
echo "dependencies: installing ${#missing[@]} of ${#wanted[@]} packages: ${missing[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
