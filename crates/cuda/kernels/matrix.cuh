// Weights on the device, and the exact product (SPEC.md, section 3).
//
// Panels of 16 rows; in a panel, blocks of 32 inputs one after the other. The bytes of a block lie as the registers of
// mma.m16n8k32 want them: lane 4g+c of a warp holds rows g and g+8, inputs 4c.. and 16+4c..
// - Q8_0, Q6_K (expanded to bytes): 16 bytes a lane: (g, 4c) (g+8, 4c) (g, 16+4c) (g+8, 16+4c).
// - Q4_0 (as two's complement), Q4_K: 8 bytes a lane: row g, row g+8, where inputs 4c.. are the low and 16+4c.. the high nibbles.
// Scales (f16) and small scales (bytes) of the 16 rows: those of rows g and g+8 are neighbours.
#pragma once
#include "arithmetic.cuh"

#define Q8_0 0
#define Q4_0 1
#define Q4_K 2
#define Q6_K 3

struct Matrix {
    const u8 *values;
    const u16 *scales;
    const u8 *subs;
    // Blocks of 32 of a row, and panels of 16 rows.
    int blocks;
    int panels;
};

// Quantised activations, in tiles of 8 tokens: values [tile][block][lane][8 bytes] as mma wants them (lane 4g+c: token g, inputs 4c.. and
// 16+4c..), scales and sums [tile][block][8].
struct Activations {
    const u8 *q;
    const float *scale;
    const float *sum;
};

// What one lane holds of a block of a panel.
template <int F> struct Fragment {
    u32 raw[F == Q8_0 || F == Q6_K ? 4 : 2];
    u32 scale[F == Q4_K ? 2 : 1];
    u32 sub;
};

template <int F> DEVICE Fragment<F> load_weights(const Matrix &m, int panel, int block, int lane) {
    Fragment<F> f;
    size_t at = (size_t)panel * m.blocks + block;
    if (F == Q8_0 || F == Q6_K) {
        uint4 v = load_once((const uint4 *)m.values + at * 32 + lane);
        f.raw[0] = v.x, f.raw[1] = v.y, f.raw[F == Q8_0 || F == Q6_K ? 2 : 0] = v.z, f.raw[F == Q8_0 || F == Q6_K ? 3 : 1] = v.w;
    } else {
        uint2 v = load_once((const uint2 *)m.values + at * 32 + lane);
        f.raw[0] = v.x, f.raw[1] = v.y;
    }
    int g = lane >> 2;
    size_t wide = (size_t)panel * (m.blocks >> 3) + (block >> 3);
    if (F == Q8_0 || F == Q4_0) {
        f.scale[0] = ((const u32 *)m.scales)[at * 8 + g];
        f.sub = 0;
    } else if (F == Q6_K) {
        f.scale[0] = ((const u32 *)m.scales)[wide * 8 + g];
        f.sub = ((const u32 *)m.subs)[at * 8 + g];
    } else {
        uint2 v = ((const uint2 *)m.scales)[wide * 8 + g];
        f.scale[0] = v.x, f.scale[F == Q4_K ? 1 : 0] = v.y;
        f.sub = ((const u32 *)m.subs)[at * 8 + g];
    }
    return f;
}

// Weights of a lane, ready for products.
template <int F> struct Ready {
    u32 a[4];
    // Scales of rows g and g+8; of Q4_K the products of scale and small scale, and of minimum and small minimum.
    float d[2];
    float minimum[2];
    int sub[4];
};

template <int F> DEVICE Ready<F> unpack(const Fragment<F> &f) {
    Ready<F> r;
    if (F == Q8_0 || F == Q6_K) {
        UNROLL for (int i = 0; i < 4; i++) r.a[i] = f.raw[F == Q8_0 || F == Q6_K ? i : 0];
    } else if (F == Q4_0) {
        // Sixteen times the value: a nibble in the upper half of a byte is a signed byte.
        r.a[0] = (f.raw[0] << 4) & 0xf0f0f0f0u, r.a[1] = (f.raw[1] << 4) & 0xf0f0f0f0u;
        r.a[2] = f.raw[0] & 0xf0f0f0f0u, r.a[3] = f.raw[1] & 0xf0f0f0f0u;
    } else {
        r.a[0] = f.raw[0] & 0x0f0f0f0fu, r.a[1] = f.raw[1] & 0x0f0f0f0fu;
        r.a[2] = (f.raw[0] >> 4) & 0x0f0f0f0fu, r.a[3] = (f.raw[1] >> 4) & 0x0f0f0f0fu;
    }
    r.d[0] = half_to_float((u16)f.scale[0]), r.d[1] = half_to_float((u16)(f.scale[0] >> 16));
    if (F == Q4_K) {
        u32 m = f.scale[F == Q4_K ? 1 : 0];
        r.d[0] = mul(r.d[0], (float)(f.sub & 255)), r.d[1] = mul(r.d[1], (float)(f.sub >> 8 & 255));
        r.minimum[0] = mul(half_to_float((u16)m), (float)(f.sub >> 16 & 255));
        r.minimum[1] = mul(half_to_float((u16)(m >> 16)), (float)(f.sub >> 24));
    }
    if (F == Q6_K) {
        UNROLL for (int i = 0; i < 4; i++) r.sub[i] = (int)(signed char)(f.sub >> (8 * i));
    }
    return r;
}

// Integer sums of a block on their way out of the tensor cores.
template <int F> struct Sums {
    int c[F == Q6_K ? 8 : 4];
};

// Where the sums are small they start at the bits of a large float, whose last bit then counts ones (or sixteenths), so that no conversion is
// needed.
template <int F> DEVICE u32 first_sum() { return F == Q4_0 ? 0x49400000u : 0x4b400000u; }

template <int F> DEVICE void begin_sums(Sums<F> &s, const Ready<F> &r, const u32 *b) {
    if (F == Q6_K) {
        mma_k16(s.c, r.a, b[0]);
        mma_k16(s.c + (F == Q6_K ? 4 : 0), r.a + 2, b[1]);
    } else {
        mma_k32(s.c, r.a, b, (int)first_sum<F>());
    }
}

// The sums as f32, exact: (g, 2c), (g, 2c+1), (g+8, 2c), (g+8, 2c+1).
template <int F> DEVICE void end_sums(float *out, const Ready<F> &r, const Sums<F> &s) {
    UNROLL for (int i = 0; i < 4; i++) {
        if (F == Q6_K)
            out[i] = (float)(r.sub[i >> 1] * s.c[i] + r.sub[2 + (i >> 1)] * s.c[(F == Q6_K ? 4 : 0) + i]);
        else
            out[i] = sub(__int_as_float(s.c[i]), __uint_as_float(first_sum<F>()));
    }
}

template <int F> DEVICE void block_sums(float *out, const Ready<F> &r, const u32 *b) {
    Sums<F> s;
    begin_sums<F>(s, r, b);
    end_sums<F>(out, r, s);
}

// One weight as f32: an embedding look-up.
DEVICE float weight(int format, const Matrix &m, int row, int k) {
    int panel = row >> 4, g = row & 7, upper = row >> 3 & 1, block = k >> 5, i = k & 31;
    int c = (i & 15) >> 2, half = i >> 4, lane = g * 4 + c;
    size_t at = (size_t)panel * m.blocks + block, wide = (size_t)panel * (m.blocks >> 3) + (block >> 3);
    if (format == Q8_0 || format == Q6_K) {
        int v = (signed char)m.values[(at * 32 + lane) * 16 + half * 8 + upper * 4 + (i & 3)];
        if (format == Q8_0) return mul(half_to_float(m.scales[at * 16 + g * 2 + upper]), (float)v);
        float d = half_to_float(m.scales[wide * 16 + g * 2 + upper]);
        return mul(mul(d, (float)(signed char)m.subs[at * 32 + g * 4 + half * 2 + upper]), (float)v);
    }
    u8 byte = m.values[(at * 32 + lane) * 8 + upper * 4 + (i & 3)];
    int v = half ? byte >> 4 : byte & 15;
    if (format == Q4_0) return mul(half_to_float(m.scales[at * 16 + g * 2 + upper]), (float)((v ^ 8) - 8));
    float d = half_to_float(m.scales[wide * 32 + g * 4 + upper]), minimum = half_to_float(m.scales[wide * 32 + g * 4 + 2 + upper]);
    float s = (float)m.subs[at * 32 + g * 4 + upper], small = (float)m.subs[at * 32 + g * 4 + 2 + upper];
    return sub(mul(mul(d, s), (float)v), mul(minimum, small));
}

// From the panels of the CPU's kernels ([block][line][row][4 bytes], without sign) to those above; `count` lanes of blocks.
KERNEL og_repack_values(int format, const u32 *in, u32 *out, u64 count) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int lane = (int)(i & 31), g = lane >> 2, c = lane & 3;
    int lines = format == Q8_0 ? 8 : format == Q6_K ? 6 : 4;
    const u32 *block = in + (i >> 5) * lines * 16;
    if (format == Q8_0) {
        for (int j = 0; j < 4; j++) out[i * 4 + j] = block[((j >> 1) * 4 + c) * 16 + g + (j & 1) * 8] ^ 0x80808080u;
    } else if (format == Q6_K) {
        for (int j = 0; j < 4; j++) {
            int half = j >> 1, row = g + (j & 1) * 8;
            u32 low = block[c * 16 + row] >> (half * 4) & 0x0f0f0f0fu;
            u32 high = block[(4 + half) * 16 + row] >> (2 * c) & 0x03030303u;
            out[i * 4 + j] = (((low | high << 4) | 0x80808080u) - 0x20202020u) ^ 0x80808080u;
        }
    } else {
        u32 flip = format == Q4_0 ? 0x88888888u : 0u;
        for (int j = 0; j < 2; j++) out[i * 2 + j] = block[c * 16 + g + j * 8] ^ flip;
    }
}

// Groups of `each` (16 or 32) elements of `size` bytes, rows in order, to neighbours (see above).
KERNEL og_repack_scales(const u8 *in, u8 *out, int each, int size, u64 count) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    u64 group = i / each;
    int e = (int)(i % each), to = (e & 7) * (each / 8) + (e >> 3);
    for (int b = 0; b < size; b++) out[(group * each + to) * size + b] = in[i * size + b];
}
