#!/bin/sh
# Builds the native code under ASan and UBSan, warnings as errors, and runs its tests, after
# CODEC_CASES damaged streams (3000) for the codecs.
# Needs the environment's cmake, ninja, nanobind and pytest on PATH; `make check-native` sees to it.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build/sanitize
site=$build/site
cxx=${CXX:-c++}
python=$(command -v python || command -v python3)

if [ "$(uname -s)" != Linux ]; then
    echo "check_native: skipped, the sanitizers are preloaded as on Linux only" >&2
    exit 0
fi

flags=
asan=$("$cxx" -print-file-name=libasan.so)
if "$cxx" --version | grep -q clang; then
    flags=-shared-libasan
    asan=$("$cxx" -print-file-name="libclang_rt.asan-$(uname -m).so")
fi

mkdir -p "$build"
cmake -S "$root/qtool/native" -B "$build/cmake" -G Ninja \
    -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_CXX_FLAGS="$flags" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DPython_EXECUTABLE="$python" -DQTOOL_DEVELOPER=ON -DQTOOL_SANITIZE=ON >"$build/cmake.log" 2>&1 \
    || { cat "$build/cmake.log" >&2; exit 1; }
ninja -C "$build/cmake" --quiet all fuzz_codecs
"$build/cmake/fuzz_codecs" "${CODEC_CASES:-3000}"

# The package with the sanitized module in it. -S: an editable install would come first otherwise.
rm -rf "$site"
mkdir -p "$site/qtool"
for entry in "$root"/qtool/*; do
    ln -s "$entry" "$site/qtool/"
done
cp "$build"/cmake/_native*.so "$site/qtool/"
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

cd "$build"
stdcxx=$("$cxx" -print-file-name=libstdc++.so)  # must be there when ASan looks for __cxa_throw
# -s: a report must not be lost with the output that pytest captures.
PYTHONPATH=$site:$packages LD_PRELOAD="$asan $stdcxx" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
    "$python" -S -m pytest -q -s -p no:cacheprovider -c "$root/pyproject.toml" --rootdir "$root" \
    "$root/tests/native" "$root/tests/statistics/test_histogram.py" \
    "$root/tests/statistics/test_gram.py" "$root/tests/runtime/test_hostile.py" "$@"
