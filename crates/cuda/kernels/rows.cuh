// What happens to single rows between products: embedding, norms, quantisation, rotary positions, keys and values.
#pragma once
#include "matrix.cuh"

// x[token] = the token's embedding row, times `scale` if there is one.
KERNEL og_embed(int format, Matrix m, const u32 *tokens, float *x, int width, int scaled, float scale) {
    wait_for_previous(gridDim.x);
    const int row = tokens[blockIdx.x];
    for (int k = blockIdx.y * blockDim.x + threadIdx.x; k < width; k += gridDim.y * blockDim.x) {
        float v = weight(format, m, row, k);
        x[(size_t)blockIdx.x * width + k] = scaled ? mul(v, scale) : v;
    }
}

// Where quantised rows go; as Activations, but writable.
struct Quantised {
    u8 *q;
    float *scale;
    float *sum;
    int blocks;
};

// Quantises one block of 32, an element a lane (SPEC.md, section 2).
DEVICE void quantise_block(const Quantised &to, int token, int block, int lane, float x) {
    u32 most = warp_max(__float_as_uint(x) & 0x7fffffffu);
    bool finite = most < 0x7f800000u;
    float largest = __uint_as_float(most);
    float inverse = finite && most >= 0x0d800000u ? quotient(127.0f, largest) : 0.0f;
    int q = __float_as_int(add(mul(x, inverse), ROUND)) - __float_as_int(ROUND);
    q = finite ? (int)(signed char)q : 0;
    int sum = warp_sum(q);
    int g = token & 7, half = lane >> 4, c = (lane & 15) >> 2;
    size_t at = (size_t)(token >> 3) * to.blocks + block;
    to.q[(at * 32 + g * 4 + c) * 8 + half * 4 + (lane & 3)] = (u8)q;
    if (lane == 0) {
        to.scale[at * 8 + g] = finite ? quotient(largest, 127.0f) : NOT_A_NUMBER;
        to.sum[at * 8 + g] = (float)sum;
    }
}

#define NORM_THREADS 512
// Elements that a thread keeps; longer rows are read again.
#define NORM_EACH 16
#define NORM_TILE (NORM_THREADS * NORM_EACH)

// 1 / sqrt(dot(x, x) / n + eps) of a row, for all threads of the block. The products are made by all, sixteen threads add them. A
// thread's own elements are i * NORM_THREADS + its number.
DEVICE float inverse_norm(const float *x, int n, float eps, float *own) {
    SHARED float products[NORM_TILE];
    SHARED float lanes[16];
    float acc = 0.0f;
    const int l = threadIdx.x;
    for (int first = 0; first < n; first += NORM_TILE) {
        const int count = n - first < NORM_TILE ? n - first : NORM_TILE;
        UNROLL for (int e = 0; e < NORM_EACH; e++)
            if (e * NORM_THREADS + l < count) own[e] = x[first + e * NORM_THREADS + l];
        UNROLL for (int e = 0; e < NORM_EACH; e++)
            if (e * NORM_THREADS + l < count) products[e * NORM_THREADS + l] = mul(own[e], own[e]);
        __syncthreads();
        if (l < 16) {
            int i = l;
            for (; i + 240 < count; i += 256) {
                float p[16];
                UNROLL for (int j = 0; j < 16; j++) p[j] = products[i + j * 16];
                UNROLL for (int j = 0; j < 16; j++) acc = add(acc, p[j]);
            }
            for (; i < count; i += 16) acc = add(acc, products[i]);
        }
        __syncthreads();
    }
    if (l < 16) lanes[l] = acc;
    __syncthreads();
    return quotient(1.0f, __fsqrt_rn(add(quotient(tree(lanes), (float)n), eps)));
}

// Quantises RMSNorm(x[rows[i]]) as token i; `rows` may be absent, then it is row i.
KERNEL BOUNDS(NORM_THREADS, 1) og_norm_quantise(const float *x, const u32 *rows, const float *gain, int n, float eps, Quantised to) {
    const int token = blockIdx.x, lane = threadIdx.x & 31;
    float own[NORM_EACH], gains[NORM_EACH];
    UNROLL for (int e = 0; e < NORM_EACH; e++)
        if (e * NORM_THREADS + (int)threadIdx.x < n) gains[e] = gain[e * NORM_THREADS + threadIdx.x];
    wait_for_previous(gridDim.x);
    const float *row = x + (size_t)(rows ? rows[token] : token) * n;
    const float inverse = inverse_norm(row, n, eps, own);
    if (n <= NORM_TILE) {
        UNROLL for (int e = 0; e < NORM_EACH; e++)
            if (e * NORM_THREADS + (int)threadIdx.x < n)
                quantise_block(to, token, e * (NORM_THREADS / 32) + (threadIdx.x >> 5), lane, mul(mul(own[e], inverse), gains[e]));
    } else {
        for (int k = threadIdx.x; k < n; k += NORM_THREADS) quantise_block(to, token, k / 32, lane, mul(mul(row[k], inverse), gain[k]));
    }
}

// out = base + RMSNorm(x), row by row.
KERNEL BOUNDS(NORM_THREADS, 1) og_norm_add(const float *x, const float *gain, int n, float eps, const float *base, float *out) {
    wait_for_previous(gridDim.x);
    const float *row = x + (size_t)blockIdx.x * n;
    float own[NORM_EACH];
    const float inverse = inverse_norm(row, n, eps, own);
    for (int k = threadIdx.x; k < n; k += NORM_THREADS) {
        size_t at = (size_t)blockIdx.x * n + k;
        out[at] = add(base[at], mul(mul(row[k], inverse), gain[k]));
    }
}

// Quantises rows as they are.
KERNEL og_quantise(const float *x, int stride, Quantised to) {
    wait_for_previous(gridDim.x);
    const int token = blockIdx.x, lane = threadIdx.x & 31;
    for (int block = blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5); block < to.blocks; block += gridDim.y * (blockDim.x >> 5))
        quantise_block(to, token, block, lane, x[(size_t)token * stride + block * 32 + lane]);
}

// Quantises f(gate) * up; a row has the gate's elements first, then those of up.
KERNEL og_gate_quantise(const float *x, int stride, int hidden, int f, Quantised to) {
    wait_for_previous(gridDim.x);
    const int token = blockIdx.x, lane = threadIdx.x & 31;
    const float *row = x + (size_t)token * stride;
    for (int block = blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5); block < to.blocks; block += gridDim.y * (blockDim.x >> 5)) {
        int k = block * 32 + lane;
        quantise_block(to, token, block, lane, mul(activation(f, row[k]), row[hidden + k]));
    }
}

KERNEL og_softcap(float *x, float cap, u64 count) {
    wait_for_previous(gridDim.x);
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] = softcap(cap, x[i]);
}

// The token of the largest logit of each row after its biases, of equal ones the lowest (SPEC.md, section 6); all ones if a logit is not
// finite. The biases of row i are places `starts[i]`..`starts[i + 1]` of `tokens` and `biases`.
KERNEL BOUNDS(1024, 1) og_choose(float *logits, int stride, int vocabulary, const u32 *starts, const u32 *tokens, const float *biases, u32 *chosen) {
    wait_for_previous(gridDim.x);
    SHARED float values[32];
    SHARED u32 places[32];
    SHARED u32 faults;
    float *row = logits + (size_t)blockIdx.x * stride;
    if (threadIdx.x == 0) faults = 0;
    __syncthreads();
    u32 fault = 0;
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x)
        if ((__float_as_uint(row[i]) & 0x7f800000u) == 0x7f800000u) fault = 1;
    if (fault) faults = 1;
    __syncthreads();
    if (threadIdx.x == 0)
        for (u32 i = starts[blockIdx.x]; i < starts[blockIdx.x + 1]; i++) row[tokens[i]] = add(row[tokens[i]], biases[i]);
    __syncthreads();
    float best = -INFINITE;
    u32 place = 0xffffffffu;
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x)
        if (row[i] > best) best = row[i], place = i;
    for (int d = 16; d; d >>= 1) {
        float other = warp_xor(best, d);
        u32 at = __float_as_uint(warp_xor(__uint_as_float(place), d));
        if (other > best || (other == best && at < place)) best = other, place = at;
    }
    if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = best, places[threadIdx.x / 32] = place;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (u32 w = 1; w < blockDim.x / 32; w++)
            if (values[w] > best || (values[w] == best && places[w] < place)) best = values[w], place = places[w];
        chosen[blockIdx.x] = faults ? 0xffffffffu : place;
    }
}

// Keys and values in pages of 32 positions: [page][layer], in it keys [head][width / 8][position][8] and then values
// [head][position][width]. Sixteen bytes of a key lie together, and those of 32 positions side by side.
#define PAGE 32
struct Pages {
    u16 *halves;
    int layers;
    int heads;
    int width;
};

DEVICE u16 *keys_of(const Pages &p, u32 page, int layer, int head) {
    return p.halves + (((size_t)page * p.layers + layer) * 2 * p.heads + head) * PAGE * p.width;
}

DEVICE u16 *values_of(const Pages &p, u32 page, int layer, int head) {
    return p.halves + (((size_t)page * p.layers + layer) * 2 * p.heads + p.heads + head) * PAGE * p.width;
}

// What a row of a batch is: its position, and where the pages of its sequence are listed.
struct Rows {
    const u32 *positions;
    const u32 *sequences;
    const u32 *tables;
    // Entries of a table: one number, because it may change between runs of a captured graph.
    const u32 *table_stride;
};

struct Rotation {
    const float *bias;
    const float *query_gain;
    const float *key_gain;
    float eps;
    // Cosine and sine, [position][pairs][2].
    const float *turns;
    int pairs;
    // Pairs are (i, i + pairs) instead of (2i, 2i + 1).
    int halves;
    int heads;
};

// One warp a head: bias, norm and rotation of queries and keys; keys and values become f16, go to their page and to `kept`
// ([row][keys, values]), which the trace hashes.
KERNEL BOUNDS(128, 4) og_rotate_store(float *qkv, int stride, Rows rows, Rotation r, Pages pages, int layer, u16 *kept) {
    wait_for_previous(gridDim.x);
    SHARED float sums[4][16];
    const int row = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, width = pages.width;
    const int head = blockIdx.y * 4 + warp, all = r.heads + 2 * pages.heads;
    if (head >= all) return;
    const bool is_query = head < r.heads, is_value = head >= r.heads + pages.heads;
    float *x = qkv + (size_t)row * stride + head * width;
    const float *bias = r.bias ? r.bias + head * width : 0;
    const float *gain = is_query ? r.query_gain : is_value ? 0 : r.key_gain;
    const u32 position = rows.positions[row];
    float inverse = 1.0f;
    if (gain) {
        float acc = 0.0f;
        if (lane < 16) {
            for (int i = lane; i < width; i += 16) {
                float v = bias ? add(x[i], bias[i]) : x[i];
                acc = add(acc, mul(v, v));
            }
            sums[warp][lane] = acc;
        }
        __syncwarp();
        inverse = quotient(1.0f, __fsqrt_rn(add(quotient(tree(sums[warp]), (float)width), r.eps)));
        __syncwarp();
    }
    u16 *key = 0, *value = 0, *keep = 0;
    if (!is_query) {
        const int kv_head = (head - r.heads) % pages.heads;
        const u32 page = rows.tables[(size_t)rows.sequences[row] * *rows.table_stride + position / PAGE];
        key = keys_of(pages, page, layer, kv_head) + position % PAGE * 8;
        value = values_of(pages, page, layer, kv_head) + position % PAGE * width;
        keep = kept + ((size_t)row * 2 * pages.heads + (head - r.heads)) * width;
    }
    const float *turn = r.turns + (size_t)position * r.pairs * 2;
    // Each lane takes whole pairs, so that nobody reads what another one has written.
    for (int j = lane; j < width / 2; j += 32) {
        const bool turned = j < r.pairs && !is_value;
        const int rest = 2 * j; // beyond the rotated dimensions, and for values: neighbours
        const int a = turned && r.halves ? j : rest, b = turned && r.halves ? j + r.pairs : rest + 1;
        float u = bias ? add(x[a], bias[a]) : x[a], v = bias ? add(x[b], bias[b]) : x[b];
        if (gain) u = mul(mul(u, inverse), gain[a]), v = mul(mul(v, inverse), gain[b]);
        if (turned) {
            float c = turn[2 * j], s = turn[2 * j + 1], w = u;
            u = sub(mul(w, c), mul(v, s));
            v = add(mul(w, s), mul(v, c));
        }
        if (is_query) {
            x[a] = u, x[b] = v;
        } else {
            u16 hu = to_half(u), hv = to_half(v);
            keep[a] = hu, keep[b] = hv;
            if (is_value)
                value[a] = hu, value[b] = hv;
            else
                key[a / 8 * 256 + a % 8] = hu, key[b / 8 * 256 + b % 8] = hv;
        }
    }
}
