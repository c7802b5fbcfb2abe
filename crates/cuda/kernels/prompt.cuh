// Attention of many rows of one sequence: 64 queries of one key head (rows times heads) share the keys and values that they read. The scores go
// through device memory, because the largest one must be known before the first weight.
#pragma once
#include "attention.cuh"

#define QUERIES 64
#define POSITIONS 64

struct Tiles {
    // First row and number of rows of each tile.
    const u32 *items;
    // Query heads of a tile.
    int heads;
    // Scores [tile][head group][query][span].
    float *scores;
    int span;
};

// The keys of 64 positions on their way to shared memory as f32, [dimension][position]; the values as [position][dimension]. A thread
// holds COUNT pieces of 8 elements.
template <int H> struct Piece {
    static const int COUNT = POSITIONS * H / 8 / 256 > 0 ? POSITIONS * H / 8 / 256 : 1;
    uint4 v[COUNT];

    DEVICE_MEMBER bool mine(int i) const { return i * 256 + (int)threadIdx.x < POSITIONS * H / 8; }

    DEVICE_MEMBER void fetch_keys(const Pages &pages, const u32 *table, int layer, int head, int first, int end) {
        UNROLL for (int i = 0; i < COUNT; i++) {
            const int at = i * 256 + threadIdx.x, d = at / POSITIONS, p = first + at % POSITIONS;
            v[i] = uint4{0, 0, 0, 0};
            if (mine(i) && p < end) v[i] = *((const uint4 *)(keys_of(pages, table[p / PAGE], layer, head) + p % PAGE * 8) + d * 32);
        }
    }

    DEVICE_MEMBER void fetch_values(const Pages &pages, const u32 *table, int layer, int head, int first, int end) {
        UNROLL for (int i = 0; i < COUNT; i++) {
            const int at = i * 256 + threadIdx.x, d = at % (H / 8) * 8, p = first + at / (H / 8);
            v[i] = uint4{0, 0, 0, 0};
            if (mine(i) && p < end) v[i] = *(const uint4 *)(values_of(pages, table[p / PAGE], layer, head) + p % PAGE * H + d);
        }
    }

    DEVICE_MEMBER void store_keys(float *to) const {
        UNROLL for (int i = 0; i < COUNT; i++) {
            const int at = i * 256 + threadIdx.x, slot = at % POSITIONS, d = at / POSITIONS * 8;
            const u32 words[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
            if (mine(i)) {
                UNROLL for (int e = 0; e < 8; e++) to[(d + e) * POSITIONS + slot] = half_to_float((u16)(words[e / 2] >> (e & 1) * 16));
            }
        }
    }

    DEVICE_MEMBER void store_values(float *to) const {
        UNROLL for (int i = 0; i < COUNT; i++) {
            const int at = i * 256 + threadIdx.x;
            const u32 words[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
            float f[8];
            UNROLL for (int e = 0; e < 8; e++) f[e] = half_to_float((u16)(words[e / 2] >> (e & 1) * 16));
            if (mine(i)) {
                ((float4 *)to)[at * 2] = float4{f[0], f[1], f[2], f[3]};
                ((float4 *)to)[at * 2 + 1] = float4{f[4], f[5], f[6], f[7]};
            }
        }
    }
};

template <int H> DEVICE void attend_tile(const Attention &a, const Rows &rows, const Pages &pages, const Tiles &tiles) {
    wait_for_previous(QUERIES);
    const int C = H / 16;                            // dimensions of a thread
    DYNAMIC_SHARED(float, shared);
    float *query = shared;                           // [H][64]
    float *weights = shared;                         // later [64 positions][64 queries]
    float *other = shared + 64 * (H > 64 ? H : 64);  // keys, then values
    SHARED int begin[QUERIES], end[QUERIES];
    SHARED float most[QUERIES], sums[QUERIES][17];
    const int first_row = tiles.items[blockIdx.x * 2], count = tiles.items[blockIdx.x * 2 + 1], hg = tiles.heads;
    const int head = blockIdx.y * hg, key_head = head / (a.heads / pages.heads);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const u32 *table = rows.tables + (size_t)rows.sequences[first_row] * *rows.table_stride;
    float *scores = tiles.scores + ((size_t)blockIdx.x * gridDim.y + blockIdx.y) * QUERIES * tiles.span;
    for (int q = threadIdx.x; q < QUERIES; q += blockDim.x) {
        const int r = q / hg;
        // A place without a row sees nothing.
        end[q] = r < count ? rows.positions[first_row + r] + 1 : 0;
        begin[q] = a.window && end[q] > a.window ? end[q] - a.window : 0;
    }
    for (int i = threadIdx.x; i < QUERIES * H; i += blockDim.x) {
        const int q = i / H, d = i % H, r = q / hg;
        query[d * QUERIES + q] = r < count ? a.queries[(size_t)(first_row + r) * a.stride + (head + q % hg) * H + d] : 0.0f;
    }
    __syncthreads();
    // Rows ascend, so the first one sees the first position and the last one the last.
    const int from = begin[0] / POSITIONS * POSITIONS, to = end[(count - 1) * hg];
    float largest[4] = {-INFINITE, -INFINITE, -INFINITE, -INFINITE};
    Piece<H> piece;
    piece.fetch_keys(pages, table, a.layer, key_head, from, to);
    for (int first = from; first < to; first += POSITIONS) {
        piece.store_keys(other);
        __syncthreads();
        // The next ones come while these are used.
        if (first + POSITIONS < to) piece.fetch_keys(pages, table, a.layer, key_head, first + POSITIONS, to);
        float acc[4][4];
        UNROLL for (int i = 0; i < 4; i++) UNROLL for (int j = 0; j < 4; j++) acc[i][j] = 0.0f;
        UNROLL_8 for (int d = 0; d < H; d++) {
            const float4 q = *(const float4 *)(query + d * QUERIES + ty * 4), k = *(const float4 *)(other + d * POSITIONS + tx * 4);
            const float qs[4] = {q.x, q.y, q.z, q.w}, ks[4] = {k.x, k.y, k.z, k.w};
            UNROLL for (int i = 0; i < 4; i++) UNROLL for (int j = 0; j < 4; j++) acc[i][j] = add(acc[i][j], mul(qs[i], ks[j]));
        }
        UNROLL for (int i = 0; i < 4; i++) {
            const int q = ty * 4 + i;
            float s[4];
            UNROLL for (int j = 0; j < 4; j++) {
                const int p = first + tx * 4 + j;
                s[j] = mul(acc[i][j], a.scale);
                if (a.capped) s[j] = softcap(a.cap, s[j]);
                if (p >= begin[q] && p < end[q]) largest[i] = s[j] > largest[i] ? s[j] : largest[i];
            }
            *(float4 *)(scores + (size_t)q * tiles.span + first - from + tx * 4) = float4{s[0], s[1], s[2], s[3]};
        }
        __syncthreads();
    }
    UNROLL for (int i = 0; i < 4; i++) {
        for (int d = 8; d; d >>= 1) {
            float o = warp_xor(largest[i], d);
            largest[i] = o > largest[i] ? o : largest[i];
        }
        if (tx == 0) most[ty * 4 + i] = largest[i];
    }
    // Each thread adds four of the sixteen lanes of one query.
    const int own = threadIdx.x / 4, lane = threadIdx.x % 4 * 4;
    float lanes[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    float out[4][C];
    UNROLL for (int i = 0; i < 4; i++) UNROLL for (int c = 0; c < C; c++) out[i][c] = 0.0f;
    piece.fetch_values(pages, table, a.layer, key_head, from, to);
    // The thread's own scores are read by others now: each takes those of one query, four positions at a time.
    __syncthreads();
    const int mine = threadIdx.x % QUERIES;
    const float4 *score = (const float4 *)(scores + (size_t)mine * tiles.span) + threadIdx.x / QUERIES;
    float4 z[4];
    UNROLL for (int i = 0; i < 4; i++) z[i] = score[i * 4];
    for (int first = from; first < to; first += POSITIONS) {
        piece.store_values(other);
        UNROLL for (int i = 0; i < 4; i++) {
            const int slot = (i * 4 + (int)threadIdx.x / QUERIES) * 4;
            const float zs[4] = {z[i].x, z[i].y, z[i].z, z[i].w};
            UNROLL for (int j = 0; j < 4; j++) {
                const int p = first + slot + j;
                weights[(slot + j) * QUERIES + mine] = p >= begin[mine] && p < end[mine] ? exact_exp(sub(zs[j], most[mine])) : 0.0f;
            }
        }
        __syncthreads();
        if (first + POSITIONS < to) {
            piece.fetch_values(pages, table, a.layer, key_head, first + POSITIONS, to);
            score += POSITIONS / 4;
            UNROLL for (int i = 0; i < 4; i++) z[i] = score[i * 4];
        }
        // A weight of 0 changes no sum.
        UNROLL for (int turn = 0; turn < POSITIONS; turn += 16)
            UNROLL for (int j = 0; j < 4; j++) lanes[j] = add(lanes[j], weights[(turn + lane + j) * QUERIES + own]);
        UNROLL_4 for (int p = 0; p < POSITIONS; p++) {
            const float4 w = *(const float4 *)(weights + p * QUERIES + ty * 4);
            const float ws[4] = {w.x, w.y, w.z, w.w};
            float v[C];
            if (C >= 4) {
                UNROLL for (int c = 0; c < C / 4; c++) {
                    const float4 four = *(const float4 *)(other + p * H + c * 64 + tx * 4);
                    v[C >= 4 ? c * 4 : 0] = four.x, v[C >= 4 ? c * 4 + 1 : 0] = four.y;
                    v[C >= 4 ? c * 4 + 2 : 0] = four.z, v[C >= 4 ? c * 4 + 3 : 0] = four.w;
                }
            } else {
                UNROLL for (int c = 0; c < C; c++) v[c] = other[p * H + c * 16 + tx];
            }
            UNROLL for (int i = 0; i < 4; i++) UNROLL for (int c = 0; c < C; c++) out[i][c] = add(out[i][c], mul(ws[i], v[c]));
        }
        __syncthreads();
    }
    UNROLL for (int j = 0; j < 4; j++) sums[own][lane + j] = lanes[j];
    __syncthreads();
    UNROLL for (int i = 0; i < 4; i++) {
        const int q = ty * 4 + i, r = q / hg;
        if (r >= count) continue;
        const float inverse = quotient(1.0f, tree(sums[q]));
        float *place = a.out + ((size_t)(first_row + r) * a.heads + head + q % hg) * H;
        UNROLL for (int c = 0; c < C; c++) place[C >= 4 ? c / 4 * 64 + tx * 4 + c % 4 : c * 16 + tx] = mul(out[i][c], inverse);
    }
}

#define ATTEND_TILE(H)                                                                                                           \
    KERNEL BOUNDS(256, 2) og_attend_tile##H(Attention a, Rows rows, Pages pages, Tiles tiles) { attend_tile<H>(a, rows, pages, tiles); }

ATTEND_TILE(16)
ATTEND_TILE(32)
ATTEND_TILE(64)
ATTEND_TILE(128)
