#!/usr/bin/env bash
# The kernels without Python (tests/csrc/exact.cpp): under AddressSanitizer and UBSan here, and cross-compiled for aarch64
# under an emulator where Debian's g++-aarch64-linux-gnu and qemu-user are installed.
set -euo pipefail
cd "$(dirname "$0")/.."

cmake -S src/vlapack/csrc -B build/exact -DEXACT=ON -DSANITIZE=ON >/dev/null
cmake --build build/exact
build/exact/exact

# AMX's machine code: its products are there, and no tile goes to the stack and back between them.
if [ "$(uname -m)" = x86_64 ]; then
  cmake -S src/vlapack/csrc -B build/exact-release -DEXACT=ON >/dev/null
  cmake --build build/exact-release
  build/exact-release/exact
  objdump -d --no-show-raw-insn build/exact-release/CMakeFiles/exact.dir/amx.cpp.o | awk '
    /tdpbsud/ { products++ }
    /tile(loadd|stored).*%r[sb]p/ { spills++ }
    END {
      printf "amx: %d tdpbsud, %d tiles on the stack\n", products, spills
      exit products < 8 || spills
    }'
fi

compiler=aarch64-linux-gnu-g++
if ! command -v "$compiler" >/dev/null; then
  echo "skipped: aarch64, for $compiler is not installed (apt-get install g++-aarch64-linux-gnu qemu-user)"
  exit 0
fi
cmake -S src/vlapack/csrc -B build/exact-aarch64 -DEXACT=ON \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER="$compiler" >/dev/null
cmake --build build/exact-aarch64
if command -v qemu-aarch64 >/dev/null; then
  qemu-aarch64 -L /usr/aarch64-linux-gnu build/exact-aarch64/exact
else
  echo "skipped: running the aarch64 kernels, for qemu-user is not installed"
fi
