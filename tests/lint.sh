#!/usr/bin/env bash
# Formatting, protos, shell scripts and the documentation's links. With --tidy <build folder>, clang-tidy over every source
# instead: ten minutes and more, so it is no part of tests/run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mapfile -t sources < <(git ls-files -co --exclude-standard '*.cc' '*.h')

if [[ ${1:-} == --tidy ]]; then
  printf '%s\n' "${sources[@]}" | grep '\.cc$' | grep -v '^tests/client/package/' |
    xargs -P "$(nproc)" -n 4 clang-tidy-14 -p "$2" --quiet --extra-arg=-Wno-unknown-warning-option 2> >(grep -v 'warnings generated' >&2)
  echo "clang-tidy: clean"
  exit 0
fi

clang-format-14 --dry-run --Werror "${sources[@]}"
echo "clang-format: ${#sources[@]} files clean"

mapfile -t scripts < <(git ls-files -co --exclude-standard '*.sh' '.ci/run')
shellcheck -x "${scripts[@]}"
echo "shellcheck: ${#scripts[@]} files clean"

buf=$(tests/buf.sh)
"$buf" lint proto
"$buf" format --diff --exit-code proto
echo "buf: protos clean"

docs/make_api_reference.py --check
echo "docs/api.md: up to date"

docs/build_site.py
