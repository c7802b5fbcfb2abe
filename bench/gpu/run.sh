#!/bin/sh
# Compares a GPU's answers with the processor's, bit for bit, and then measures it. For a machine with an NVIDIA driver and GPU; neither Rust nor
# a network is needed. Models are made where this runs.
#
#   bench/gpu/run.sh OG [FOLDER] [SHAPES]
#
# OG: the program, built with `cargo build --release --features cuda`. FOLDER: for the models, 11 GB; memory is best. SHAPES: of the models.
set -eu
cd "$(dirname "$0")/../.."
og=$1
folder=${2:-/dev/shm}
shapes=${3:-tinyllama-1.1b llama-3.1-8b}
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader || true
"$og" bench gpu --fixtures models/fixtures
for shape in $shapes; do
    "$og" bench make-gguf --shape "$shape" --out "$folder/$shape.gguf" --force
    "$og" bench gpu --no-equality-of-kernels --model "$folder/$shape.gguf"
    rm "$folder/$shape.gguf"
done
