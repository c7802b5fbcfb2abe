// Matrix times activations. Only rows and tokens run in parallel; the sum of an output over its blocks is one chain in ascending order.
#pragma once
#include "matrix.cuh"


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

// Few tokens: reading the weights is all the time. One panel a thread block of W warps, which compute the terms of different blocks of 32
// at once; one thread an output adds them in order. NT tiles of 8 tokens, U blocks a warp and turn.
template <int F, int NT, int U, int W> DEVICE void few(const Matrix &m, const Activations &x, const Target &to) {
    const int TERMS = F == Q4_K ? 2 : 1, TURN = W * U;
    DYNAMIC_SHARED(float, terms); // [2][TURN][TERMS][token][16 rows]
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, c = lane & 3, panel = blockIdx.x;
    const int outputs = 16 * to.tokens;
    Fragment<F> w[U];
    uint2 b[U][NT];
    float2 a[U][NT], s[U][NT];
    UNROLL for (int u = 0; u < U; u++) {
        UNROLL for (int n = 0; n < NT; n++) b[u][n] = uint2{0, 0};
    }
    // What a warp has used up it loads again for the next turn at once, so that loads are always under way.
    auto load = [&](int u, int block) {
        if (block >= m.blocks) return;
        w[u] = load_weights<F>(m, panel, block, lane);
        UNROLL for (int n = 0; n < NT; n++) {
            size_t at = (size_t)n * m.blocks + block;
            // Tokens that are not there stay 0.
            if (n * 8 + g < to.tokens) b[u][n] = *((const uint2 *)x.q + at * 32 + lane);
            a[u][n] = *(const float2 *)(x.scale + at * 8 + 2 * c);
            if (F == Q4_K) s[u][n] = *(const float2 *)(x.sum + at * 8 + 2 * c);
        }
    };
    UNROLL for (int u = 0; u < U; u++) load(u, warp * U + u);
    float acc = 0.0f;
    int buffer = 0;
    for (int first = 0; first < m.blocks; first += TURN, buffer ^= 1) {
        float *mine = terms + (buffer * TURN + warp * U) * TERMS * outputs;
        UNROLL for (int u = 0; u < U; u++) {
            Ready<F> r = unpack<F>(w[u]);
            UNROLL for (int n = 0; n < NT; n++) {
                const u32 q[2] = {b[u][n].x, b[u][n].y};
                float sums[4];
                block_sums<F>(sums, r, q);
                float *term = mine + u * TERMS * outputs + (n * 8 + 2 * c) * 16 + g;
                UNROLL for (int i = 0; i < 2; i++) {
                    const float scale = i ? a[u][n].y : a[u][n].x;
                    if (n * 8 + 2 * c + i < to.tokens) {
                        term[i * 16] = mul(mul(r.d[0], scale), sums[i]);
                        term[i * 16 + 8] = mul(mul(r.d[1], scale), sums[2 + i]);
                        if (F == Q4_K) {
                            const float sum = i ? s[u][n].y : s[u][n].x;
                            term[outputs + i * 16] = mul(mul(r.minimum[0], scale), sum);
                            term[outputs + i * 16 + 8] = mul(mul(r.minimum[1], scale), sum);
                        }
                    }
                }
            }
            load(u, first + TURN + warp * U + u);
        }
        // Two buffers: whoever writes this one again has met the adding threads at the next barrier.
        __syncthreads();
        if ((int)threadIdx.x < outputs) {
            const float *term = terms + buffer * TURN * TERMS * outputs + threadIdx.x;
            const int count = m.blocks - first < TURN ? m.blocks - first : TURN;
            int j = 0;
            for (; j + 16 <= count; j += 16) {
                float t[16 * TERMS];
                UNROLL for (int i = 0; i < 16 * TERMS; i++) t[i] = term[(j * TERMS + i) * outputs];
                UNROLL for (int i = 0; i < 16; i++) {
                    acc = add(acc, t[i * TERMS]);
                    if (F == Q4_K) acc = sub(acc, t[i * TERMS + TERMS - 1]);
                }
            }
            for (; j < count; j++) {
                acc = add(acc, term[j * TERMS * outputs]);
                if (F == Q4_K) acc = sub(acc, term[(j * TERMS + TERMS - 1) * outputs]);
            }
        }
    }
    if ((int)threadIdx.x < outputs) put(to, threadIdx.x >> 4, panel * 16 + (threadIdx.x & 15), acc);
}

// Blocks of 32 that are copied to shared memory at once: they have one superblock.
#define STEP 4

// Many tokens: the f32 operations are all the time. A warp keeps MR panels by NT tiles of outputs in registers, WR by 8 / WR warps make a thread
// block. Weights and activations come through shared memory, STAGES steps deep.
template <int F, int MR, int NT, int WR, int STAGES> DEVICE void many(const Matrix &m, const Activations &x, const Target &to) {
    const int WT = 8 / WR, PANELS = MR * WR, TILES = NT * WT, LANE = F == Q8_0 || F == Q6_K ? 16 : 8;
    const int WIDE = F == Q4_K ? 64 : F == Q6_K ? 32 : STEP * 32, SUBS = F == Q4_K || F == Q6_K ? STEP * 32 : 0, SUMS = F == Q4_K ? STEP * 32 : 0;
    // Where the parts of a stage begin.
    const int Q = PANELS * STEP * 32 * LANE, A = Q + TILES * STEP * 256, S = A + TILES * STEP * 32, D = S + TILES * SUMS;
    const int SUB = D + PANELS * WIDE, STAGE = SUB + PANELS * SUBS;
    DYNAMIC_SHARED(u8, shared);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, c = lane & 3;
    const int tiles = (to.tokens + 7) / 8, steps = (m.blocks + STEP - 1) / STEP;
    const int tile_first = (int)blockIdx.x * TILES, panel_first = (int)blockIdx.y * PANELS;
    const int tile0 = tile_first + warp / WR * NT, panel0 = panel_first + warp % WR * MR;
    // Copies `bytes` (a multiple of 16) for each of `count` rows of an array with `each` bytes a row, of which those of a step begin at `at`.
    auto copy = [&](int part, const void *from, int first, int count, int there, size_t each, size_t at, int bytes, size_t end) {
        for (int i = threadIdx.x; i < count * (bytes / 16); i += blockDim.x) {
            const int row = i / (bytes / 16), offset = i % (bytes / 16) * 16;
            if (first + row < there && at + offset < end)
                copy_16(shared + part + row * bytes + offset, (const u8 *)from + (first + row) * each + at + offset);
        }
    };
    auto load = [&](int step) {
        if (step < steps) {
            const int base = step % STAGES * STAGE;
            const size_t block = (size_t)step * STEP, blocks = m.blocks;
            const size_t row = blocks * 32 * LANE;
            copy(base, m.values, panel_first, PANELS, m.panels, row, block * 32 * LANE, STEP * 32 * LANE, row);
            copy(base + Q, x.q, tile_first, TILES, tiles, blocks * 256, block * 256, STEP * 256, blocks * 256);
            copy(base + A, x.scale, tile_first, TILES, tiles, blocks * 32, block * 32, STEP * 32, blocks * 32);
            if (SUMS) copy(base + S, x.sum, tile_first, TILES, tiles, blocks * 32, block * 32, STEP * 32, blocks * 32);
            if (SUBS) {
                copy(base + D, m.scales, panel_first, PANELS, m.panels, blocks / 8 * WIDE, block / 8 * WIDE, WIDE, blocks / 8 * WIDE);
                copy(base + SUB, m.subs, panel_first, PANELS, m.panels, blocks * 32, block * 32, STEP * 32, blocks * 32);
            } else {
                copy(base + D, m.scales, panel_first, PANELS, m.panels, blocks * 32, block * 32, STEP * 32, blocks * 32);
            }
        }
        copy_group();
    };
    float acc[MR][NT][4];
    UNROLL for (int i = 0; i < MR; i++) UNROLL for (int n = 0; n < NT; n++) UNROLL for (int e = 0; e < 4; e++) acc[i][n][e] = 0.0f;
    for (int step = 0; step < STAGES - 1; step++) load(step);
    for (int step = 0; step < steps; step++) {
        copy_wait<STAGES - 2>();
        // Everybody's copies of this step are there, and nobody reads the stage that is filled next any more.
        __syncthreads();
        load(step + STAGES - 1);
        if (tile0 >= tiles || panel0 >= m.panels) continue;
        const u8 *stage = shared + step % STAGES * STAGE;
        const int count = m.blocks - step * STEP;
        UNROLL for (int block = 0; block < STEP; block++) {
            if (block >= count) break;
            Ready<F> w[MR];
            UNROLL for (int i = 0; i < MR; i++) {
                const int p = warp % WR * MR + i;
                Fragment<F> f;
                const u8 *values = stage + ((p * STEP + block) * 32 + lane) * LANE;
                if (LANE == 16) {
                    const uint4 v = *(const uint4 *)values;
                    f.raw[0] = v.x, f.raw[1] = v.y, f.raw[LANE == 16 ? 2 : 0] = v.z, f.raw[LANE == 16 ? 3 : 1] = v.w;
                } else {
                    const uint2 v = *(const uint2 *)values;
                    f.raw[0] = v.x, f.raw[1] = v.y;
                }
                const u32 *scales = (const u32 *)(stage + D + p * WIDE);
                f.scale[0] = F == Q4_K ? scales[2 * g] : F == Q6_K ? scales[g] : scales[block * 8 + g];
                if (F == Q4_K) f.scale[F == Q4_K ? 1 : 0] = scales[2 * g + 1];
                f.sub = SUBS ? *(const u32 *)(stage + SUB + p * SUBS + block * 32 + g * 4) : 0;
                w[i] = unpack<F>(f);
            }
            UNROLL for (int n = 0; n < NT; n++) {
                const int t = warp / WR * NT + n;
                const uint2 v = *(const uint2 *)(stage + Q + ((t * STEP + block) * 32 + lane) * 8);
                const u32 b[2] = {v.x, v.y};
                const float2 a = *(const float2 *)(stage + A + (t * STEP + block) * 32 + c * 8);
                float2 s = {0.0f, 0.0f};
                if (SUMS) s = *(const float2 *)(stage + S + (t * STEP + block) * 32 + c * 8);
                UNROLL for (int i = 0; i < MR; i++) {
                    float sums[4];
                    block_sums<F>(sums, w[i], b);
                    UNROLL for (int e = 0; e < 4; e++) {
                        const float scale = e & 1 ? a.y : a.x;
                        acc[i][n][e] = add(acc[i][n][e], mul(mul(w[i].d[e >> 1], scale), sums[e]));
                        if (F == Q4_K) acc[i][n][e] = sub(acc[i][n][e], mul(mul(w[i].minimum[e >> 1], scale), e & 1 ? s.y : s.x));
                    }
                }
            }
        }
    }
    UNROLL for (int i = 0; i < MR; i++) {
        if (panel0 + i >= m.panels) continue;
        UNROLL for (int n = 0; n < NT; n++)
            UNROLL for (int e = 0; e < 4; e++)
                put(to, (tile0 + n) * 8 + 2 * c + (e & 1), (panel0 + i) * 16 + g + (e >> 1) * 8, acc[i][n][e]);
    }
}

#define MATMUL(name, F)                                                                                                          \
    KERNEL BOUNDS(512, 2) og_few8_##name(Matrix m, Activations x, Target to) { few<F, 1, 4, 16>(m, x, to); }                     \
    KERNEL BOUNDS(512, 2) og_few16_##name(Matrix m, Activations x, Target to) { few<F, 2, 2, 16>(m, x, to); }                    \
    KERNEL BOUNDS(256, 3) og_batch_##name(Matrix m, Activations x, Target to) { many<F, 1, 2, 2, 4>(m, x, to); }                 \
    KERNEL BOUNDS(256, 2) og_prompt_##name(Matrix m, Activations x, Target to) { many<F, 2, 4, 2, 3>(m, x, to); }

MATMUL(q8_0, Q8_0)
MATMUL(q4_0, Q4_0)
MATMUL(q4_k, Q4_K)
MATMUL(q6_k, Q6_K)
