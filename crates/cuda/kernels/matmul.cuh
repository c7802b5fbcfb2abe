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
    auto load_w = [&](int u, int block) {
        if (block < m.blocks) w[u] = load_weights<F>(m, panel, block, lane);
    };
    auto load_x = [&](int u, int block) {
        if (block >= m.blocks) return;
        UNROLL for (int n = 0; n < NT; n++) {
            size_t at = (size_t)n * m.blocks + block;
            // Tokens that are not there stay 0.
            if (n * 8 + g < to.tokens) b[u][n] = *((const uint2 *)x.q + at * 32 + lane);
            a[u][n] = *(const float2 *)(x.scale + at * 8 + 2 * c);
            if (F == Q4_K) s[u][n] = *(const float2 *)(x.sum + at * 8 + 2 * c);
        }
    };
    UNROLL for (int u = 0; u < U; u++) load_w(u, warp * U + u);
    wait_for_previous(to.tokens);
    UNROLL for (int u = 0; u < U; u++) load_x(u, warp * U + u);
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
            load_w(u, first + TURN + warp * U + u);
            load_x(u, first + TURN + warp * U + u);
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

// Many tokens: the f32 operations are all the time. A warp keeps MR panels by NT tiles of outputs in registers, WR by 8 / WR warps make a thread
// block. Weights and activations come through shared memory, STAGES steps deep, each of STEP blocks (4 or 8: they have one superblock).
template <int F, int MR, int NT, int WR, int STAGES, int STEP> DEVICE void many(const Matrix &m, const Activations &x, const Target &to) {
    const int WT = 8 / WR, PANELS = MR * WR, TILES = NT * WT, LANE = F == Q8_0 || F == Q6_K ? 16 : 8;
    const int WIDE = F == Q4_K ? 64 : F == Q6_K ? 32 : STEP * 32, SUBS = F == Q4_K || F == Q6_K ? STEP * 32 : 0, SUMS = F == Q4_K ? STEP * 32 : 0;
    // Where the parts of a stage begin.
    const int Q = PANELS * STEP * 32 * LANE, A = Q + TILES * STEP * 256, S = A + TILES * STEP * 32, D = S + TILES * SUMS;
    const int SUB = D + PANELS * WIDE, STAGE = SUB + PANELS * SUBS;
    // Chunks of 16 bytes that each of 256 threads copies.
    const int A_SLOTS = (Q / 16 + 255) / 256, Q_SLOTS = ((A - Q) / 16 + 255) / 256, REST_SLOTS = ((STAGE - A) / 16 + 255) / 256;
    DYNAMIC_SHARED(u8, shared);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, c = lane & 3;
    const int tiles = (to.tokens + 7) / 8, steps = (m.blocks + STEP - 1) / STEP;
    const int tile_first = (int)blockIdx.x * TILES, panel_first = (int)blockIdx.y * PANELS;
    const int tile0 = tile_first + warp / WR * NT, panel0 = panel_first + warp % WR * MR;
    // What a thread copies in each step: a source that moves on by a fixed number of bytes, until its block is beyond the end.
    const size_t blocks = m.blocks;
    const u8 *from_a[A_SLOTS], *from_q[Q_SLOTS], *from_rest[REST_SLOTS];
    int until_a[A_SLOTS], until_q[Q_SLOTS], until_rest[REST_SLOTS], move_rest[REST_SLOTS], to_rest[REST_SLOTS];
    // Steps in which block `b` of the step is there.
    auto until = [&](int b) { return (m.blocks - b + STEP - 1) / STEP; };
    UNROLL for (int i = 0; i < A_SLOTS; i++) {
        const int chunk = i * 256 + threadIdx.x, row = chunk / (STEP * 2 * LANE), rest = chunk % (STEP * 2 * LANE);
        const bool there = row < PANELS && panel_first + row < m.panels;
        from_a[i] = m.values + (there ? (panel_first + row) * blocks * 32 * LANE + rest * 16 : 0);
        until_a[i] = there ? until(rest / (2 * LANE)) : 0;
    }
    UNROLL for (int i = 0; i < Q_SLOTS; i++) {
        const int chunk = i * 256 + threadIdx.x, tile = chunk / (STEP * 16), rest = chunk % (STEP * 16);
        const bool there = tile < TILES && tile_first + tile < tiles;
        from_q[i] = x.q + (there ? (tile_first + tile) * blocks * 256 + rest * 16 : 0);
        until_q[i] = there ? until(rest / 16) : 0;
    }
    // The small parts one after the other: scales and sums of activations, scales and small scales of weights.
    UNROLL for (int i = 0; i < REST_SLOTS; i++) {
        int chunk = i * 256 + threadIdx.x;
        to_rest[i] = A + chunk * 16, move_rest[i] = STEP * 32, until_rest[i] = 0, from_rest[i] = m.values;
        if (chunk < TILES * STEP * 2 * (SUMS ? 2 : 1)) {
            const bool second = chunk >= TILES * STEP * 2;
            chunk -= second ? TILES * STEP * 2 : 0;
            const int tile = chunk / (STEP * 2), rest = chunk % (STEP * 2);
            if (tile_first + tile < tiles) {
                from_rest[i] = (const u8 *)(second ? x.sum : x.scale) + (tile_first + tile) * blocks * 32 + rest * 16;
                until_rest[i] = until(rest / 2);
            }
            continue;
        }
        chunk -= TILES * STEP * 2 * (SUMS ? 2 : 1);
        if (chunk < PANELS * WIDE / 16) {
            const int panel = chunk / (WIDE / 16), rest = chunk % (WIDE / 16);
            if (panel_first + panel < m.panels) {
                from_rest[i] = (const u8 *)m.scales + (panel_first + panel) * (SUBS ? blocks / 8 * WIDE : blocks * 32) + rest * 16;
                until_rest[i] = SUBS ? steps : until(rest / 2);
                // Two steps of 4 have one superblock.
                move_rest[i] = !SUBS ? STEP * 32 : STEP == 8 ? WIDE : -WIDE;
            }
            continue;
        }
        chunk -= PANELS * WIDE / 16;
        if (SUBS && chunk < PANELS * STEP * 2) {
            const int panel = chunk / (STEP * 2), rest = chunk % (STEP * 2);
            if (panel_first + panel < m.panels) {
                from_rest[i] = m.subs + (panel_first + panel) * blocks * 32 + rest * 16;
                until_rest[i] = until(rest / 2);
            }
        }
    }
    auto load = [&](int step) {
        u8 *stage = shared + step % STAGES * STAGE + threadIdx.x * 16;
        UNROLL for (int i = 0; i < A_SLOTS; i++)
            if (step < until_a[i]) copy_16(stage + i * 4096, from_a[i] + (size_t)step * (STEP * 32 * LANE));
        UNROLL for (int i = 0; i < Q_SLOTS; i++)
            if (step < until_q[i]) copy_16(stage + Q + i * 4096, from_q[i] + (size_t)step * (STEP * 256));
        UNROLL for (int i = 0; i < REST_SLOTS; i++) {
            const size_t move = move_rest[i] < 0 ? (step >> 1) * -move_rest[i] : step * move_rest[i];
            if (step < until_rest[i]) copy_16(stage - threadIdx.x * 16 + to_rest[i], from_rest[i] + move);
        }
        copy_group();
    };
    float acc[MR][NT][4];
    UNROLL for (int i = 0; i < MR; i++) UNROLL for (int n = 0; n < NT; n++) UNROLL for (int e = 0; e < 4; e++) acc[i][n][e] = 0.0f;
    wait_for_previous(to.tokens);
    for (int step = 0; step < STAGES - 1; step++) load(step);
    for (int step = 0; step < steps; step++) {
        copy_wait<STAGES - 2>();
        // Everybody's copies of this step are there, and nobody reads the stage that is filled next any more.
        __syncthreads();
        load(step + STAGES - 1);
        if (tile0 >= tiles || panel0 >= m.panels) continue;
        const u8 *stage = shared + step % STAGES * STAGE;
        const int count = m.blocks - step * STEP;
        // The tensor cores are one tile ahead, so that nobody waits for them. Blocks beyond the end are summed up, but not added.
        auto multiply = [&](int end) {
            Ready<F> w[2][MR];
            Sums<F> sums[2][MR];
            float2 a[2], s[2];
            UNROLL for (int ahead = 0; ahead <= STEP * NT; ahead++) {
                if (ahead < STEP * NT) {
                    const int block = ahead / NT, t = warp / WR * NT + ahead % NT;
                    if (ahead % NT == 0) {
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
                            w[block & 1][i] = unpack<F>(f);
                        }
                    }
                    const uint2 v = *(const uint2 *)(stage + Q + ((t * STEP + block) * 32 + lane) * 8);
                    const u32 b[2] = {v.x, v.y};
                    a[ahead & 1] = *(const float2 *)(stage + A + (t * STEP + block) * 32 + c * 8);
                    if (SUMS) s[ahead & 1] = *(const float2 *)(stage + S + (t * STEP + block) * 32 + c * 8);
                    UNROLL for (int i = 0; i < MR; i++) begin_sums<F>(sums[ahead & 1][i], w[block & 1][i], b);
                }
                const int now = ahead - 1, n = now % NT, block = now / NT;
                if (now < 0 || block >= end) continue;
                UNROLL for (int i = 0; i < MR; i++) {
                    const Ready<F> &r = w[block & 1][i];
                    float f[4];
                    end_sums<F>(f, r, sums[now & 1][i]);
                    UNROLL for (int e = 0; e < 4; e++) {
                        const float scale = e & 1 ? a[now & 1].y : a[now & 1].x;
                        acc[i][n][e] = add(acc[i][n][e], mul(mul(r.d[e >> 1], scale), f[e]));
                        if (F == Q4_K) acc[i][n][e] = sub(acc[i][n][e], mul(mul(r.minimum[e >> 1], scale), e & 1 ? s[now & 1].y : s[now & 1].x));
                    }
                }
            }
        };
        // Most steps are whole, and their code has no conditions.
        if (count >= STEP)
            multiply(STEP);
        else
            multiply(count);
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
    KERNEL BOUNDS(256, 2) og_batch_##name(Matrix m, Activations x, Target to) { many<F, 1, 2, 2, 3, 8>(m, x, to); }                 \
    KERNEL BOUNDS(256, 2) og_wide_##name(Matrix m, Activations x, Target to) { many<F, 2, 4, 4, 3, 4>(m, x, to); }                  \
    KERNEL BOUNDS(256, 2) og_prompt_##name(Matrix m, Activations x, Target to) { many<F, 2, 4, 2, 3, 4>(m, x, to); }

MATMUL(q8_0, Q8_0)
MATMUL(q4_0, Q4_0)
MATMUL(q4_k, Q4_K)
MATMUL(q6_k, Q6_K)
