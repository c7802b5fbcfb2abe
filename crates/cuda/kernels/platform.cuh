// What the kernels need of the machine: a GPU under nvcc, or the emulator under a C++ compiler.
#pragma once
#ifdef __CUDACC__
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define KERNEL extern "C" __global__ void
// Threads of a block, and how many blocks the compiler should let a multiprocessor hold.
#define BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define UNROLL _Pragma("unroll")
#define UNROLL_4 _Pragma("unroll 4")
#define UNROLL_8 _Pragma("unroll 8")
#define SHARED __shared__
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) unsigned char dynamic_shared[]; type *name = (type *)dynamic_shared

DEVICE float half_to_float(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

DEVICE u16 float_to_half(float f) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

// c = start + a * b over 16 rows, 8 columns and 32 signed bytes; how the matrices lie in the registers of a warp is in PTX's description of
// mma.m16n8k32.
DEVICE void mma_k32(int *c, const u32 *a, const u32 *b, int start) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(start));
}

// The same over 16 signed bytes, from 0.
DEVICE void mma_k16(int *c, const u32 *a, u32 b) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b), "r"(0));
}

DEVICE u32 warp_max(u32 x) { return __reduce_max_sync(0xffffffffu, x); }
DEVICE int warp_sum(int x) { return __reduce_add_sync(0xffffffffu, x); }
DEVICE float warp_xor(float x, int lanes) { return __shfl_xor_sync(0xffffffffu, x, lanes); }

// Copies 16 bytes from device to shared memory while the thread goes on; copies are waited for in groups, all but the last N.
DEVICE void copy_16(void *shared, const void *from) {
    u32 to = (u32)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
DEVICE void copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// On Hopper and newer a kernel may begin while the one before ends: it reads what that one writes, and writes anything, only after it has waited.
// Everything that a kernel does before may only read weights. With few rows the next kernel comes early; with many, its thread blocks would crowd
// on the multiprocessors that are free first, so it comes when this one ends.
DEVICE void wait_for_previous(int rows) {
#if __CUDA_ARCH__ >= 900
    if (rows <= 8) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Reads weights, which are read once a step: they should not push the activations out of the cache.
DEVICE uint4 load_once(const uint4 *at) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at));
    return v;
}
DEVICE uint2 load_once(const uint2 *at) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at));
    return v;
}
#else
#include "emulator.h"
#endif
