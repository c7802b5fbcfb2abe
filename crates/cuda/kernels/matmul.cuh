// Matrix times activations. Only rows and tokens run in parallel; the sum of an output over its blocks is one chain in ascending order.
#pragma once
#include "matrix.cuh"

#define WARPS 8

// Where a product goes: out[token * stride + row], added to base[..] if there is one.
struct Target {
    float *out;
    const float *base;
    int stride;
    int tokens;
};

DEVICE void put(const Target &t, int token, int row, float acc) {
    if (token >= t.tokens) return;
    size_t at = (size_t)token * t.stride + row;
    t.out[at] = t.base ? add(t.base[at], acc) : acc;
}

// Few tokens: reading the weights is all the time. One panel a thread block; its warps compute the terms of different blocks of 32
// at once, and one thread an output adds them in order. NT tiles of 8 tokens, U blocks a warp and turn.
template <int F, int NT, int U> DEVICE void few(const Matrix &m, const Activations &x, const Target &to) {
    const int TERMS = F == Q4_K ? 2 : 1, TURN = WARPS * U, OUTPUTS = 128 * NT;
    DYNAMIC_SHARED(float, terms); // [2][TURN][TERMS][token][16 rows]
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, c = lane & 3, panel = blockIdx.x;
    const int outputs = 16 * to.tokens;
    Fragment<F> next[U];
    UNROLL for (int u = 0; u < U; u++) {
        int block = warp * U + u;
        if (block < m.blocks) next[u] = load_weights<F>(m, panel, block, lane);
    }
    float acc = 0.0f;
    int buffer = 0;
    for (int first = 0; first < m.blocks; first += TURN, buffer ^= 1) {
        Fragment<F> now[U];
        UNROLL for (int u = 0; u < U; u++) {
            now[u] = next[u];
            int block = first + TURN + warp * U + u;
            if (block < m.blocks) next[u] = load_weights<F>(m, panel, block, lane);
        }
        float *mine = terms + (size_t)(buffer * TURN + warp * U) * TERMS * OUTPUTS;
        UNROLL for (int u = 0; u < U; u++) {
            int block = first + warp * U + u;
            if (block >= m.blocks) break;
            Ready<F> w = unpack<F>(now[u]);
            UNROLL for (int n = 0; n < NT; n++) {
                size_t at = (size_t)n * m.blocks + block;
                u32 b[2] = {0, 0};
                if (n * 8 + g < to.tokens) {
                    uint2 v = *((const uint2 *)x.q + at * 32 + lane);
                    b[0] = v.x, b[1] = v.y;
                }
                float sums[4];
                block_sums<F>(sums, w, b);
                int token = n * 8 + 2 * c;
                float *term = mine + u * TERMS * OUTPUTS + token * 16 + g;
                UNROLL for (int i = 0; i < 2; i++) {
                    if (token + i >= to.tokens) continue;
                    float a = x.scale[at * 8 + 2 * c + i];
                    term[i * 16] = mul(mul(w.d[0], a), sums[i]);
                    term[i * 16 + 8] = mul(mul(w.d[1], a), sums[2 + i]);
                    if (F == Q4_K) {
                        float s = x.sum[at * 8 + 2 * c + i];
                        term[OUTPUTS + i * 16] = mul(mul(w.minimum[0], a), s);
                        term[OUTPUTS + i * 16 + 8] = mul(mul(w.minimum[1], a), s);
                    }
                }
            }
        }
        // Two buffers: whoever writes this one again has met the adding threads at the next barrier.
        __syncthreads();
        if ((int)threadIdx.x < outputs) {
            const float *term = terms + (size_t)buffer * TURN * TERMS * OUTPUTS + threadIdx.x;
            int count = m.blocks - first < TURN ? m.blocks - first : TURN;
            if (count == TURN) {
                UNROLL for (int j = 0; j < TURN; j++) {
                    acc = add(acc, term[j * TERMS * OUTPUTS]);
                    if (F == Q4_K) acc = sub(acc, term[j * TERMS * OUTPUTS + OUTPUTS]);
                }
            } else {
                for (int j = 0; j < count; j++) {
                    acc = add(acc, term[j * TERMS * OUTPUTS]);
                    if (F == Q4_K) acc = sub(acc, term[j * TERMS * OUTPUTS + OUTPUTS]);
                }
            }
        }
    }
    if ((int)threadIdx.x < outputs) put(to, threadIdx.x >> 4, panel * 16 + (threadIdx.x & 15), acc);
}

// Many tokens: the f32 operations are all the time. A warp keeps MR panels by NT tiles of outputs in registers; WR by WT warps make a
// thread block. Weights and activations come from the caches straight into registers, in the order of mma's fragments.
template <int F, int MR, int NT, int WR> DEVICE void many(const Matrix &m, const Activations &x, const Target &to) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, c = lane & 3, WT = WARPS / WR;
    const int tiles = (to.tokens + 7) / 8;
    const int tile0 = ((int)blockIdx.x * WT + warp / WR) * NT, panel0 = ((int)blockIdx.y * WR + warp % WR) * MR;
    if (tile0 >= tiles || panel0 >= m.panels) return;
    // Beyond the end the last panel or tile is computed again, and not stored.
    int panel[MR], tile[NT];
    UNROLL for (int i = 0; i < MR; i++) panel[i] = panel0 + i < m.panels ? panel0 + i : m.panels - 1;
    UNROLL for (int i = 0; i < NT; i++) tile[i] = tile0 + i < tiles ? tile0 + i : tiles - 1;
    float acc[MR][NT][4];
    UNROLL for (int i = 0; i < MR; i++) UNROLL for (int n = 0; n < NT; n++) UNROLL for (int e = 0; e < 4; e++) acc[i][n][e] = 0.0f;
    Fragment<F> next[MR];
    uint2 next_b[NT];
    float2 next_a[NT], next_s[NT];
    UNROLL for (int i = 0; i < MR; i++) next[i] = load_weights<F>(m, panel[i], 0, lane);
    UNROLL for (int n = 0; n < NT; n++) {
        size_t at = (size_t)tile[n] * m.blocks;
        next_b[n] = *((const uint2 *)x.q + at * 32 + lane);
        next_a[n] = *(const float2 *)(x.scale + at * 8 + 2 * c);
        if (F == Q4_K) next_s[n] = *(const float2 *)(x.sum + at * 8 + 2 * c);
    }
    for (int block = 0; block < m.blocks; block++) {
        Ready<F> w[MR];
        u32 b[NT][2];
        float2 a[NT], s[NT];
        UNROLL for (int i = 0; i < MR; i++) w[i] = unpack<F>(next[i]);
        UNROLL for (int n = 0; n < NT; n++) b[n][0] = next_b[n].x, b[n][1] = next_b[n].y, a[n] = next_a[n], s[n] = next_s[n];
        if (block + 1 < m.blocks) {
            UNROLL for (int i = 0; i < MR; i++) next[i] = load_weights<F>(m, panel[i], block + 1, lane);
            UNROLL for (int n = 0; n < NT; n++) {
                size_t at = (size_t)tile[n] * m.blocks + block + 1;
                next_b[n] = *((const uint2 *)x.q + at * 32 + lane);
                next_a[n] = *(const float2 *)(x.scale + at * 8 + 2 * c);
                if (F == Q4_K) next_s[n] = *(const float2 *)(x.sum + at * 8 + 2 * c);
            }
        }
        UNROLL for (int i = 0; i < MR; i++) {
            UNROLL for (int n = 0; n < NT; n++) {
                float sums[4];
                block_sums<F>(sums, w[i], b[n]);
                UNROLL for (int e = 0; e < 4; e++) {
                    float scale = e & 1 ? a[n].y : a[n].x;
                    acc[i][n][e] = add(acc[i][n][e], mul(mul(w[i].d[e >> 1], scale), sums[e]));
                    if (F == Q4_K) {
                        float q = e & 1 ? s[n].y : s[n].x;
                        acc[i][n][e] = sub(acc[i][n][e], mul(mul(w[i].minimum[e >> 1], scale), q));
                    }
                }
            }
        }
    }
    UNROLL for (int i = 0; i < MR; i++) {
        if (panel0 + i >= m.panels) continue;
        UNROLL for (int n = 0; n < NT; n++) {
            if (tile0 + n >= tiles) continue;
            UNROLL for (int e = 0; e < 4; e++)
                put(to, tile[n] * 8 + 2 * c + (e & 1), panel[i] * 16 + g + (e >> 1) * 8, acc[i][n][e]);
        }
    }
}

#define MATMUL(name, F)                                                                                                          \
    KERNEL BOUNDS(256, 3) og_few8_##name(Matrix m, Activations x, Target to) { few<F, 1, 4>(m, x, to); }                             \
    KERNEL BOUNDS(256, 2) og_few16_##name(Matrix m, Activations x, Target to) { few<F, 2, 2>(m, x, to); }                            \
    KERNEL BOUNDS(256, 2) og_batch_##name(Matrix m, Activations x, Target to) { many<F, 1, 2, 2>(m, x, to); }                        \
    KERNEL BOUNDS(256, 2) og_prompt_##name(Matrix m, Activations x, Target to) { many<F, 2, 4, 2>(m, x, to); }

MATMUL(q8_0, Q8_0)
MATMUL(q4_0, Q4_0)
MATMUL(q4_k, Q4_K)
MATMUL(q6_k, Q6_K)
