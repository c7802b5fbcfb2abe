#!/usr/bin/env bash
# Builds llama-bench-json with the instruction sets of this machine. Needs a C++ compiler, Python 3 with venv, and Rust.
#
# cmake and libclang (for the bindings) come from PyPI into .cache beside this file; nothing is installed elsewhere.
# llama.cpp is compiled from the source that the pinned crate llama-cpp-sys-2 carries: about five minutes on two cores.
#
#   ./build.sh                       -march=native: AVX-512, VNNI and AMX where the processor has them
#   ISA=icelake-server ./build.sh    another target-cpu of rustc, here AVX-512 with VNNI and no AMX
#   ISA=x86-64-v3 ./build.sh         AVX2
#
# The program is target/ISA/release/llama-bench-json; several can stand side by side.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

isa=${ISA:-native}
jobs=${JOBS:-2}
venv=.cache/venv
for tool in python3 cargo gcc g++; do
    command -v "$tool" >/dev/null || { echo "build.sh: install $tool first" >&2; exit 1; }
done

if [ ! -x "$venv/bin/cmake" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check cmake==4.4.4 libclang==18.1.1
fi

PATH="$PWD/$venv/bin:$PATH"
LIBCLANG_PATH=$("$venv/bin/python" -c 'import clang, pathlib; print(pathlib.Path(clang.__file__).parent / "native")')
# The libclang of PyPI comes without the compiler's own headers (stddef.h and so on): lend it those of gcc.
BINDGEN_EXTRA_CLANG_ARGS="-I$(gcc -print-file-name=include)"
# llama.cpp's own optimisation level, whatever the Rust profile.
LLAMA_LIB_PROFILE=Release
CMAKE_BUILD_PARALLEL_LEVEL=$jobs
CXXFLAGS="-include $PWD/amx-gcc.h ${CXXFLAGS:-}"
# The crate turns on GGML_NATIVE when it sees target-cpu=native, and the listed features otherwise.
RUSTFLAGS="-C target-cpu=$isa"
CARGO_TARGET_DIR=target/$isa
export PATH LIBCLANG_PATH BINDGEN_EXTRA_CLANG_ARGS LLAMA_LIB_PROFILE CMAKE_BUILD_PARALLEL_LEVEL
export CXXFLAGS RUSTFLAGS CARGO_TARGET_DIR

nice -n 19 cargo build --release --locked -j "$jobs"
echo "$PWD/$CARGO_TARGET_DIR/release/llama-bench-json"
