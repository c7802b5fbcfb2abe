#!/bin/sh
# Compiles the kernels to PTX, which any driver of CUDA 13 or later turns into code for its GPU (Ampere or newer).
# Needs nvcc 13.0: of a toolkit, or `pip install nvidia-cuda-nvcc==13.0.* nvidia-cuda-runtime==13.0.* nvidia-cuda-cccl==13.0.* nvidia-nvvm==13.0.* nvidia-cuda-crt==13.0.*`.
set -eu
cd "$(dirname "$0")"
# exact.ptx runs on Ampere and newer; exact90.ptx, for Hopper and newer, lets a kernel begin while the one before ends.
# The first lines name the sources that it was made of; a test compares them.
hash=$(cat platform.cuh arithmetic.cuh matrix.cuh matmul.cuh rows.cuh attention.cuh prompt.cuh trace.cuh exact.cu | sha256sum | cut -d' ' -f1)
for target in 80:exact 90:exact90; do
    line="nvcc -ptx -arch=compute_${target%:*} -O3 --fmad=false -std=c++17 exact.cu"
    "${NVCC:-nvcc}" ${line#nvcc } -o "${target#*:}.ptx"
    { echo "// sources: $hash"; echo "// built by: $line"; grep -v '^//' "${target#*:}.ptx"; } > new.ptx
    mv new.ptx "${target#*:}.ptx"
done
