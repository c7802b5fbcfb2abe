// Attention over pages (SPEC.md, section 4): scores one chain over the dimensions for each position, weights in sixteen lanes, values one chain
// over the positions for each element.
#pragma once
#include "rows.cuh"

#define ATTENTION_THREADS 256

// Positions whose values are copied to shared memory at once, and how many such steps are under way.
#define VALUE_STEP 64
#define VALUE_STAGES 4

struct Attention {
    const float *queries;
    int stride;
    float *out;
    int heads;
    float scale;
    int capped;
    float cap;
    // Positions that a row sees, itself included; 0 for all.
    int window;
    int layer;
    // Scores of one head of one row in device memory, if they do not fit into shared memory (else null), and places for each.
    float *scores;
    int span;
    // The rows to attend for; all when absent.
    const u32 *listed;
    // If `quantises`, the result goes here instead of `out`.
    Quantised to;
    int quantises;
};

// HG query heads of one key head for one row. Places of scores count from the first position rounded down to a whole step.
template <int HG> DEVICE void attend(const Attention &a, const Rows &rows, const Pages &pages) {
    wait_for_previous(gridDim.y);
    const int OUTPUTS = HG == 1 ? 4 : HG; // elements of a thread, for heads up to 1024 and 256 wide
    DYNAMIC_SHARED(float, shared);        // values [VALUE_STAGES][VALUE_STEP][width] halves, queries [HG][width], scores [HG][span] if they fit
    SHARED float lanes[HG][16];
    SHARED float most[HG][ATTENTION_THREADS / 32];
    const int row = a.listed ? a.listed[blockIdx.y] : blockIdx.y, head = blockIdx.x * HG, width = pages.width;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, key_head = head / (a.heads / pages.heads);
    const int to = rows.positions[row] + 1, from = a.window && to > a.window ? to - a.window : 0;
    const int start = from / VALUE_STEP * VALUE_STEP, steps = (to - start + VALUE_STEP - 1) / VALUE_STEP, span = a.span;
    const u32 *table = rows.tables + (size_t)rows.sequences[row] * *rows.table_stride;
    u16 *values = (u16 *)shared;
    float *query = shared + VALUE_STAGES * VALUE_STEP * width / 2;
    float *z = a.scores ? a.scores + ((size_t)row * a.heads + head) * span : query + HG * width;
    auto load = [&](int step) {
        if (step < steps) {
            u16 *stage = values + step % VALUE_STAGES * VALUE_STEP * width;
            for (int i = threadIdx.x; i < VALUE_STEP * width / 8; i += ATTENTION_THREADS) {
                const int slot = i / (width / 8), d = i % (width / 8) * 8, p = start + step * VALUE_STEP + slot;
                if (p < to)
                    copy_16(stage + i * 8, values_of(pages, table[p / PAGE], a.layer, key_head) + p % PAGE * width + d);
                else
                    *(uint4 *)(stage + i * 8) = uint4{0, 0, 0, 0};
            }
        }
        copy_group();
    };
    for (int step = 0; step < VALUE_STAGES - 1; step++) load(step);
    for (int i = threadIdx.x; i < HG * width; i += ATTENTION_THREADS) query[i] = a.queries[(size_t)row * a.stride + head * width + i];
    __syncthreads();
    float largest[HG];
    UNROLL for (int j = 0; j < HG; j++) largest[j] = -INFINITE;
    for (int p = start + threadIdx.x; p < start + steps * VALUE_STEP; p += ATTENTION_THREADS) {
        if (p < from || p >= to) {
            // A place that nobody sees gets no weight.
            UNROLL for (int j = 0; j < HG; j++) z[(size_t)j * span + p - start] = 0.0f;
            continue;
        }
        const uint4 *key = (const uint4 *)(keys_of(pages, table[p / PAGE], a.layer, key_head) + p % PAGE * 8);
        float acc[HG];
        UNROLL for (int j = 0; j < HG; j++) acc[j] = 0.0f;
        for (int first = 0; first < width; first += 64) {
            uint4 keys[8];
            UNROLL for (int i = 0; i < 8; i++)
                if (first + i * 8 < width) keys[i] = key[(first / 8 + i) * 32];
            UNROLL for (int i = 0; i < 8; i++) {
                if (first + i * 8 >= width) break;
                const u32 words[4] = {keys[i].x, keys[i].y, keys[i].z, keys[i].w};
                UNROLL for (int e = 0; e < 8; e++) {
                    const float k = half_to_float((u16)(words[e / 2] >> (e & 1) * 16));
                    UNROLL for (int j = 0; j < HG; j++) acc[j] = add(acc[j], mul(query[j * width + first + i * 8 + e], k));
                }
            }
        }
        UNROLL for (int j = 0; j < HG; j++) {
            float s = mul(acc[j], a.scale);
            if (a.capped) s = softcap(a.cap, s);
            z[(size_t)j * span + p - start] = s;
            largest[j] = s > largest[j] ? s : largest[j];
        }
    }
    UNROLL for (int j = 0; j < HG; j++) {
        for (int d = 16; d; d >>= 1) {
            float other = warp_xor(largest[j], d);
            largest[j] = other > largest[j] ? other : largest[j];
        }
        if (lane == 0) most[j][warp] = largest[j];
    }
    __syncthreads();
    UNROLL for (int j = 0; j < HG; j++) {
        float m = most[j][0];
        for (int w = 1; w < ATTENTION_THREADS / 32; w++) m = most[j][w] > m ? most[j][w] : m;
        for (int p = from + threadIdx.x; p < to; p += ATTENTION_THREADS) {
            float *at = z + (size_t)j * span + p - start;
            *at = exact_exp(sub(*at, m));
        }
    }
    __syncthreads();
    // The last threads add the weights, while the first ones go on. A weight of 0 changes no sum.
    for (int t = ATTENTION_THREADS - 1 - threadIdx.x; t < HG * 16; t += ATTENTION_THREADS) {
        const float *w = z + (size_t)(t >> 4) * span + (t & 15);
        float acc = 0.0f;
        for (int i = 0; i < steps * VALUE_STEP; i += 64) {
            float v[4];
            UNROLL for (int j = 0; j < 4; j++) v[j] = w[i + j * 16];
            UNROLL for (int j = 0; j < 4; j++) acc = add(acc, v[j]);
        }
        lanes[t >> 4][t & 15] = acc;
    }
    float out[OUTPUTS];
    UNROLL for (int n = 0; n < OUTPUTS; n++) out[n] = 0.0f;
    for (int step = 0; step < steps; step++) {
        copy_wait<VALUE_STAGES - 2>();
        __syncthreads();
        load(step + VALUE_STAGES - 1);
        const u16 *stage = values + step % VALUE_STAGES * VALUE_STEP * width;
        UNROLL for (int n = 0; n < OUTPUTS; n++) {
            const int o = threadIdx.x + n * ATTENTION_THREADS;
            if (o >= HG * width) break;
            const u16 *value = stage + o % width;
            const float4 *w = (const float4 *)(z + (size_t)(o / width) * span + step * VALUE_STEP);
            UNROLL_4 for (int i = 0; i < VALUE_STEP / 4; i++) {
                const float4 four = w[i];
                const float ws[4] = {four.x, four.y, four.z, four.w};
                UNROLL for (int e = 0; e < 4; e++) out[n] = add(out[n], mul(ws[e], half_to_float(value[(i * 4 + e) * width])));
            }
        }
    }
    __syncthreads();
    UNROLL for (int n = 0; n < OUTPUTS; n++) {
        const int o = threadIdx.x + n * ATTENTION_THREADS;
        if (o >= HG * width) break;
        const float v = mul(out[n], quotient(1.0f, tree(lanes[o / width])));
        if (a.quantises)
            quantise_block(a.to, row, (head * width + o) / 32, lane, v);
        else
            a.out[((size_t)row * a.heads + head) * width + o] = v;
    }
}

KERNEL BOUNDS(ATTENTION_THREADS, 2) og_attend1(Attention a, Rows rows, Pages pages) { attend<1>(a, rows, pages); }
KERNEL BOUNDS(ATTENTION_THREADS, 2) og_attend2(Attention a, Rows rows, Pages pages) { attend<2>(a, rows, pages); }
KERNEL BOUNDS(ATTENTION_THREADS, 2) og_attend4(Attention a, Rows rows, Pages pages) { attend<4>(a, rows, pages); }
KERNEL BOUNDS(ATTENTION_THREADS, 2) og_attend8(Attention a, Rows rows, Pages pages) { attend<8>(a, rows, pages); }
