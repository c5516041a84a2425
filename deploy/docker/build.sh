#!/usr/bin/env bash
# Builds the image, with the labels of the Open Container Initiative and three tags:
#   normd:0.1.0-1a2b3c4d5e6f   version and git revision, "-dirty" if the checkout has changes: never moves
#   normd:0.1.0                the last build of this version
#   normd:local                the last build
# SOURCE_DATE_EPOCH, SOURCE (an URL), LICENSES and IMAGE (normd) may be set; the time is that of the commit otherwise.
#
#   deploy/docker/build.sh [OPTION OF docker build ...]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

image=${IMAGE:-normd}
version=$(sed -n 's/^project(normd VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
revision=unknown
epoch=${SOURCE_DATE_EPOCH:-0}
if git rev-parse --verify -q HEAD >/dev/null 2>&1; then
  revision=$(git rev-parse --short=12 HEAD)
  epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
  [[ -z $(git status --porcelain) ]] || revision+=-dirty
fi

docker build -f deploy/docker/Dockerfile \
  --build-arg "VERSION=$version" \
  --build-arg "REVISION=$revision" \
  --build-arg "SOURCE_DATE_EPOCH=$epoch" \
  --build-arg "CREATED=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)" \
  --build-arg "SOURCE=${SOURCE:-unknown}" \
  --build-arg "LICENSES=${LICENSES:-NOASSERTION}" \
  -t "$image:$version-$revision" -t "$image:$version" -t "$image:local" \
  "$@" .
