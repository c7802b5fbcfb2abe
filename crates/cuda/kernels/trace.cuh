// BLAKE3 of the rows that a trace leaf commits to (SPEC.md, section 7): one warp a row, one lane a chunk of 1024 bytes.
#pragma once
#include "platform.cuh"

#define CHUNK_START 1u
#define CHUNK_END 2u
#define PARENT 4u
#define ROOT 8u
#define BLAKE3_CHUNKS_MAX 512

DEVICE u32 rotate_right(u32 x, int n) { return x >> n | x << (32 - n); }

DEVICE void quarter(u32 *s, int a, int b, int c, int d, u32 x, u32 y) {
    s[a] = s[a] + s[b] + x;
    s[d] = rotate_right(s[d] ^ s[a], 16);
    s[c] = s[c] + s[d];
    s[b] = rotate_right(s[b] ^ s[c], 12);
    s[a] = s[a] + s[b] + y;
    s[d] = rotate_right(s[d] ^ s[a], 8);
    s[c] = s[c] + s[d];
    s[b] = rotate_right(s[b] ^ s[c], 7);
}

DEVICE u32 blake3_iv(int i) {
    const u32 iv[8] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au, 0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
    return iv[i];
}

// cv = the first half of compress(cv, m, counter, length, flags).
DEVICE void compress(u32 *cv, u32 *m, u32 counter, u32 length, u32 flags) {
    u32 s[16];
    UNROLL for (int i = 0; i < 8; i++) s[i] = cv[i];
    UNROLL for (int i = 0; i < 4; i++) s[8 + i] = blake3_iv(i);
    s[12] = counter, s[13] = 0, s[14] = length, s[15] = flags;
    UNROLL for (int round = 0; round < 7; round++) {
        quarter(s, 0, 4, 8, 12, m[0], m[1]);
        quarter(s, 1, 5, 9, 13, m[2], m[3]);
        quarter(s, 2, 6, 10, 14, m[4], m[5]);
        quarter(s, 3, 7, 11, 15, m[6], m[7]);
        quarter(s, 0, 5, 10, 15, m[8], m[9]);
        quarter(s, 1, 6, 11, 12, m[10], m[11]);
        quarter(s, 2, 7, 8, 13, m[12], m[13]);
        quarter(s, 3, 4, 9, 14, m[14], m[15]);
        const int order[16] = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};
        u32 next[16];
        UNROLL for (int i = 0; i < 16; i++) next[i] = m[order[i]];
        UNROLL for (int i = 0; i < 16; i++) m[i] = next[i];
    }
    UNROLL for (int i = 0; i < 8; i++) cv[i] = s[i] ^ s[8 + i];
}

// Digests [layer][row][2][8 words]: of row i of `kept` (`kept_bytes` each) and of row i of `x` (`x_bytes` each); the rows of a layer begin
// `kept_layer` and `x_layer` words behind those of the one before. Both lengths are multiples of 4.
KERNEL BOUNDS(32, 8) og_digest(const u32 *kept, int kept_bytes, u64 kept_layer, const u32 *x, int x_bytes, u64 x_layer, u32 *digests) {
    wait_for_previous(gridDim.x);
    SHARED u32 values[BLAKE3_CHUNKS_MAX][8];
    const int lane = threadIdx.x, bytes = blockIdx.y ? x_bytes : kept_bytes;
    const u32 *rows = blockIdx.y ? x + blockIdx.z * x_layer : kept + blockIdx.z * kept_layer;
    const u32 *row = rows + (size_t)blockIdx.x * (bytes / 4);
    int chunks = (bytes + 1023) / 1024;
    for (int chunk = lane; chunk < chunks; chunk += 32) {
        u32 cv[8];
        UNROLL for (int i = 0; i < 8; i++) cv[i] = blake3_iv(i);
        int left = bytes - chunk * 1024 < 1024 ? bytes - chunk * 1024 : 1024;
        for (int at = 0; at < left; at += 64) {
            u32 m[16];
            const u32 *words = row + chunk * 256 + at / 4;
            int length = left - at < 64 ? left - at : 64;
            UNROLL for (int i = 0; i < 16; i++) m[i] = i * 4 < length ? words[i] : 0;
            u32 flags = (at == 0 ? CHUNK_START : 0u) | (at + 64 >= left ? CHUNK_END | (chunks == 1 ? ROOT : 0u) : 0u);
            compress(cv, m, chunk, length, flags);
        }
        UNROLL for (int i = 0; i < 8; i++) values[chunk][i] = cv[i];
    }
    __syncwarp();
    // Neighbours become parents, an odd one moves up, until one is left.
    while (chunks > 1) {
        const int parents = (chunks + 1) / 2;
        for (int first = 0; first < parents; first += 32) {
            const int i = first + lane;
            u32 cv[8], m[16];
            const bool pair = i < parents && 2 * i + 1 < chunks;
            if (i < parents) {
                UNROLL for (int j = 0; j < 8; j++) m[j] = values[2 * i][j];
                if (pair) {
                    UNROLL for (int j = 0; j < 8; j++) m[8 + j] = values[2 * i + 1][j];
                    UNROLL for (int j = 0; j < 8; j++) cv[j] = blake3_iv(j);
                    compress(cv, m, 0, 64, PARENT | (chunks == 2 ? ROOT : 0u));
                } else {
                    UNROLL for (int j = 0; j < 8; j++) cv[j] = m[j];
                }
            }
            // Parents lie below their children, and those of this turn were read by all before one is written.
            __syncwarp();
            if (i < parents) {
                UNROLL for (int j = 0; j < 8; j++) values[i][j] = cv[j];
            }
            __syncwarp();
        }
        chunks = parents;
    }
    u32 *digest = digests + (((size_t)blockIdx.z * gridDim.x + blockIdx.x) * 2 + blockIdx.y) * 8;
    if (lane < 8) digest[lane] = values[0][lane];
}
