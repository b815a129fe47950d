#!/bin/sh
# Builds the runtime for 64-bit ARM, warnings as errors, and checks its kernels in an emulator: as a
# processor without dot products, one with sdot, and one with sudot as well.
# Needs the environment's cmake, ninja and python with qtool on PATH (`make check-arm` sees to it), a
# cross compiler and qemu.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build/arm
cxx=${CXX_ARM:-aarch64-linux-gnu-g++}
cc=${CC_ARM:-aarch64-linux-gnu-gcc}
sysroot=${SYSROOT_ARM:-/usr/aarch64-linux-gnu}
cases=${CASES:-300}

for tool in "$cxx" "$cc" qemu-aarch64; do
    if ! command -v "$tool" >/dev/null; then
        echo "check_arm: $tool is missing; on Debian: apt install g++-aarch64-linux-gnu" \
             "gcc-aarch64-linux-gnu qemu-user" >&2
        exit 1
    fi
done

mkdir -p "$build"
cmake -S "$root/qtool/native" -B "$build" -G Ninja -DCMAKE_SYSTEM_NAME=Linux \
    -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_C_COMPILER="$cc" \
    -DQTOOL_PYTHON=OFF -DQTOOL_DEVELOPER=ON >"$build/cmake.log" 2>&1 \
    || { cat "$build/cmake.log" >&2; exit 1; }
ninja -C "$build" --quiet kernels run_program check_variants check_programs

rm -rf "$build/cases"
python "$root/scripts/write_cases.py" "$build/cases" --count $((cases / 10 + 1))

for cpu in cortex-a53 neoverse-n1 max; do
    echo "as $cpu"
    qemu-aarch64 -cpu "$cpu" -L "$sysroot" "$build/check_variants" "$cases"
    for isa in scalar neon; do
        find "$build/cases" -name '*.case' | xargs -n 2000 \
            qemu-aarch64 -cpu "$cpu" -L "$sysroot" "$build/check_programs" $isa 2
    done
done
