// Attention over pages (SPEC.md, section 4): scores one chain over the dimensions for each position, weights in sixteen lanes, values one chain
// over the positions for each element.
#pragma once
#include "rows.cuh"

#define ATTENTION_THREADS 256

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
};

// HG query heads of one key head for one row.
template <int HG> DEVICE void attend(const Attention &a, const Rows &rows, const Pages &pages) {
    DYNAMIC_SHARED(float, shared); // queries [HG][width], then the scores [HG][span] if they fit
    SHARED float lanes[HG][16];
    SHARED float most[HG][ATTENTION_THREADS / 32];
    const int row = a.listed ? a.listed[blockIdx.y] : blockIdx.y, head = blockIdx.x * HG, width = pages.width, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int key_head = head / (a.heads / pages.heads);
    const int to = rows.positions[row] + 1, from = a.window && to > a.window ? to - a.window : 0, seen = to - from;
    const u32 *table = rows.tables + (size_t)rows.sequences[row] * *rows.table_stride;
    float *query = shared;
    float *z = a.scores ? a.scores + ((size_t)row * a.heads + head) * a.span : shared + HG * width;
    const int span = a.span;
    for (int i = threadIdx.x; i < HG * width; i += blockDim.x) query[i] = a.queries[(size_t)row * a.stride + head * width + i];
    __syncthreads();
    float largest[HG];
    UNROLL for (int j = 0; j < HG; j++) largest[j] = -INFINITE;
    for (int p = from + threadIdx.x; p < to; p += blockDim.x) {
        const uint4 *key = (const uint4 *)(keys_of(pages, table[p / PAGE], a.layer, key_head) + p % PAGE * 8);
        float acc[HG];
        UNROLL for (int j = 0; j < HG; j++) acc[j] = 0.0f;
        for (int d = 0; d < width; d += 16) {
            u32 words[8];
            uint4 v = key[d / 8 * 32], w = key[d / 8 * 32 + 32];
            words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
            words[4] = w.x, words[5] = w.y, words[6] = w.z, words[7] = w.w;
            UNROLL for (int e = 0; e < 16; e++) {
                float k = half_to_float((u16)(words[e / 2] >> (e & 1) * 16));
                UNROLL for (int j = 0; j < HG; j++) acc[j] = add(acc[j], mul(query[j * width + d + e], k));
            }
        }
        UNROLL for (int j = 0; j < HG; j++) {
            float s = mul(acc[j], a.scale);
            if (a.capped) s = softcap(a.cap, s);
            z[(size_t)j * span + p - from] = s;
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
        for (int w = 1; w < (int)(blockDim.x >> 5); w++) m = most[j][w] > m ? most[j][w] : m;
        for (int i = threadIdx.x; i < seen; i += blockDim.x) z[(size_t)j * span + i] = exact_exp(sub(z[(size_t)j * span + i], m));
    }
    __syncthreads();
    for (int t = threadIdx.x; t < HG * 16; t += blockDim.x) {
        const float *w = z + (size_t)(t >> 4) * span;
        float acc = 0.0f;
        // The first place whose position is this lane's.
        int i = ((t & 15) - from) & 15;
        for (; i + 112 < seen; i += 128) {
            float v[8];
            UNROLL for (int j = 0; j < 8; j++) v[j] = w[i + j * 16];
            UNROLL for (int j = 0; j < 8; j++) acc = add(acc, v[j]);
        }
        for (; i < seen; i += 16) acc = add(acc, w[i]);
        lanes[t >> 4][t & 15] = acc;
    }
    __syncthreads();
    // Two neighbouring elements a thread.
    for (int o = threadIdx.x; o < HG * width / 2; o += blockDim.x) {
        const int j = o / (width / 2), i = o % (width / 2) * 2;
        const float *w = z + (size_t)j * span - from;
        float low = 0.0f, high = 0.0f;
        for (int p = from; p < to;) {
            const int end = (p / PAGE + 1) * PAGE < to ? (p / PAGE + 1) * PAGE : to;
            const u32 *value = (const u32 *)(values_of(pages, table[p / PAGE], a.layer, key_head) + i);
            const int step = width / 2;
            for (; p + 8 <= end; p += 8) {
                u32 v[8];
                float weight[8];
                UNROLL for (int e = 0; e < 8; e++) v[e] = value[(p + e) % PAGE * step], weight[e] = w[p + e];
                UNROLL for (int e = 0; e < 8; e++) {
                    low = add(low, mul(weight[e], half_to_float((u16)v[e])));
                    high = add(high, mul(weight[e], half_to_float((u16)(v[e] >> 16))));
                }
            }
            for (; p < end; p++) {
                u32 v = value[p % PAGE * step];
                low = add(low, mul(w[p], half_to_float((u16)v)));
                high = add(high, mul(w[p], half_to_float((u16)(v >> 16))));
            }
        }
        const float inverse = quotient(1.0f, tree(lanes[j]));
        float *out = a.out + ((size_t)row * a.heads + head + j) * width + i;
        out[0] = mul(low, inverse);
        out[1] = mul(high, inverse);
    }
}

KERNEL BOUNDS(ATTENTION_THREADS, 2) og_attend1(Attention a, Rows rows, Pages pages) { attend<1>(a, rows, pages); }
KERNEL BOUNDS(ATTENTION_THREADS, 2) og_attend2(Attention a, Rows rows, Pages pages) { attend<2>(a, rows, pages); }
KERNEL BOUNDS(ATTENTION_THREADS, 2) og_attend4(Attention a, Rows rows, Pages pages) { attend<4>(a, rows, pages); }
KERNEL BOUNDS(ATTENTION_THREADS, 2) og_attend8(Attention a, Rows rows, Pages pages) { attend<8>(a, rows, pages); }
