#!/bin/sh
# Builds the emulated driver, `libcuda.so`, into the folder given (x86-64 only). A program that is started with that folder in
# LD_LIBRARY_PATH finds a GPU there.
set -eu
cd "$(dirname "$0")"
"${CXX:-g++}" -O2 -std=c++17 -ffp-contract=off -fno-strict-aliasing -fPIC -shared -I. -I../kernels -Wno-unused-function driver.cpp -o "$1/libcuda.so"
