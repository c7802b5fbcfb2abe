// The kernels of SPEC.md for NVIDIA GPUs; `build.sh` compiles this file to PTX.
#include "matmul.cuh"
#include "prompt.cuh"
#include "trace.cuh"

// The host mirrors these.
static_assert(sizeof(Matrix) == 32 && sizeof(Activations) == 24 && sizeof(Target) == 24, "arguments of products");
static_assert(sizeof(Quantised) == 32 && sizeof(Pages) == 24 && sizeof(Rows) == 32, "arguments of rows");
static_assert(sizeof(Rotation) == 56 && sizeof(Attention) == 112 && sizeof(Tiles) == 32, "arguments of attention");
