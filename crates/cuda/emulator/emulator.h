// A GPU made of one CPU thread: each thread of a block is a fibre that runs until it meets a barrier. Slow, but it runs the kernels'
// own text, so index arithmetic, tilings and barriers are tested where there is no GPU.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
struct uint2 { u32 x, y; };
struct uint4 { u32 x, y, z, w; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct Index { u32 x, y, z; };

extern Index threadIdx, blockIdx, blockDim, gridDim;
extern unsigned char *dynamic_memory;
// Waits for all threads of the block, or of the warp.
void block_barrier();
void warp_barrier();
// Words that the lanes of a warp show each other.
u32 (*warp_words())[8];

#define DEVICE static inline
#define DEVICE_MEMBER inline
#define KERNEL extern "C" void
#define BOUNDS(threads, blocks)
#define UNROLL
#define UNROLL_4
#define UNROLL_8
#define SHARED static
#define DYNAMIC_SHARED(type, name) type *name = (type *)dynamic_memory
#define __syncthreads block_barrier
#define __syncwarp warp_barrier

template <class To, class From> static inline To bits(From from) {
    To to;
    static_assert(sizeof to == sizeof from, "same size");
    memcpy(&to, &from, sizeof to);
    return to;
}
DEVICE float __uint_as_float(u32 x) { return bits<float>(x); }
DEVICE float __int_as_float(int x) { return bits<float>(x); }
DEVICE u32 __float_as_uint(float x) { return bits<u32>(x); }
DEVICE int __float_as_int(float x) { return bits<int>(x); }
DEVICE float __fadd_rn(float a, float b) { return a + b; }
DEVICE float __fsub_rn(float a, float b) { return a - b; }
DEVICE float __fmul_rn(float a, float b) { return a * b; }
DEVICE float __fdiv_rn(float a, float b) { return a / b; }
DEVICE float __fsqrt_rn(float a) { return sqrtf(a); }

DEVICE float half_to_float(u16 h) { return (float)bits<_Float16>(h); }
DEVICE u16 float_to_half(float f) { return bits<u16>((_Float16)f); }

DEVICE int lane_id() { return threadIdx.x & 31; }

template <class F> static inline void exchange(const u32 *mine, int n, F read) {
    u32(*words)[8] = warp_words();
    for (int i = 0; i < n; i++) words[lane_id()][i] = mine[i];
    warp_barrier();
    read(words);
    warp_barrier();
}

DEVICE u32 warp_max(u32 x) {
    exchange(&x, 1, [&](u32(*w)[8]) { for (int i = 0; i < 32; i++) x = w[i][0] > x ? w[i][0] : x; });
    return x;
}
DEVICE int warp_sum(int x) {
    u32 mine = (u32)x;
    exchange(&mine, 1, [&](u32(*w)[8]) { x = 0; for (int i = 0; i < 32; i++) x += (int)w[i][0]; });
    return x;
}
DEVICE float warp_xor(float x, int lanes) {
    u32 mine = bits<u32>(x);
    exchange(&mine, 1, [&](u32(*w)[8]) { x = bits<float>(w[lane_id() ^ lanes][0]); });
    return x;
}

DEVICE int byte_of(u32 word, int i) { return (signed char)(word >> (8 * i)); }

// As PTX describes the fragments: A row g (or g+8), bytes 4c.. (or 16+4c..); B column g; C rows g, g+8, columns 2c, 2c+1.
DEVICE void mma_k32(int *out, const u32 *a, const u32 *b, int start) {
    const int g = lane_id() >> 2, c = lane_id() & 3;
    const u32 mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    exchange(mine, 6, [&](u32(*w)[8]) {
        for (int e = 0; e < 4; e++) {
            int row = g + (e >> 1) * 8, column = 2 * c + (e & 1);
            out[e] = start;
            for (int k = 0; k < 32; k++) {
                int x = byte_of(w[(row & 7) * 4 + (k & 15) / 4][(row >> 3) + 2 * (k >> 4)], k & 3);
                int y = byte_of(w[column * 4 + (k & 15) / 4][4 + (k >> 4)], k & 3);
                out[e] = (int)((u32)out[e] + (u32)(x * y));
            }
        }
    });
}
DEVICE void mma_k16(int *out, const u32 *a, u32 b) {
    const int g = lane_id() >> 2, c = lane_id() & 3;
    const u32 mine[3] = {a[0], a[1], b};
    exchange(mine, 3, [&](u32(*w)[8]) {
        for (int e = 0; e < 4; e++) {
            int row = g + (e >> 1) * 8, column = 2 * c + (e & 1);
            out[e] = 0;
            for (int k = 0; k < 16; k++)
                out[e] += byte_of(w[(row & 7) * 4 + k / 4][row >> 3], k & 3) * byte_of(w[column * 4 + k / 4][2], k & 3);
        }
    });
}

DEVICE void wait_for_previous(int) {}
DEVICE void copy_16(void *shared, const void *from) { memcpy(shared, from, 16); }
DEVICE void copy_group() {}
template <int N> static inline void copy_wait() {}

DEVICE uint4 load_once(const uint4 *at) { return *at; }
DEVICE uint2 load_once(const uint2 *at) { return *at; }
