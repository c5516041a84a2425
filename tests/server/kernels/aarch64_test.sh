#!/usr/bin/env bash
# Builds the kernels for aarch64 (NEON) with Debian's cross compiler and checks their bits under qemu-user.
#
#   aarch64_test.sh <source folder> <folder for what is built>
set -euo pipefail
source=$1
build=$2
mkdir -p "$build"
cd "$source"
flags=(-std=c++20 -O1 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra -Werror -I. -isystem "$build/include")
# Abseil's headers alone: they are the same for every machine.
mkdir -p "$build/include"
ln -sfn /usr/include/absl "$build/include/absl"
objects=()
for file in server/kernels/{batch_norm,implementation,parallel,scratch,vector/kernels_baseline}.cc \
            tests/server/kernels/bits_main.cc; do
  object=$build/$(basename "$file" .cc).o
  ${CCACHE:-ccache} aarch64-linux-gnu-g++ "${flags[@]}" -c "$file" -o "$object"
  objects+=("$object")
done
aarch64-linux-gnu-g++ -static "${objects[@]}" -o "$build/bits"
qemu-aarch64 "$build/bits"
