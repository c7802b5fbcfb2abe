// The part of the CUDA driver's interface that the crate uses, over the emulator. Built as `libcuda.so` by `build.sh`.
#include "emulator.h"
#include "../kernels/exact.cu"
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <utility>
#include <vector>

Index threadIdx, blockIdx, blockDim, gridDim;
unsigned char *dynamic_memory;

// Fibres.
enum State { READY, AT_WARP, AT_BLOCK, DONE };
struct Fibre {
    void *stack_pointer;
    char *stack;
    State state;
    Index index;
};
static const size_t STACK = 64 << 10, FIBRES = 1024;
static Fibre fibres[FIBRES];
static Fibre *current;
static void *scheduler_pointer;
static u32 words[FIBRES / 32][32][8];
static void (*body)(void **);
static void **body_args;

// Saves the registers that a call keeps and the stack, and goes on at another one.
asm(R"(
.text
.global switch_stack
switch_stack:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");
extern "C" void switch_stack(void **save, void *load);

static void leave(State state) {
    current->state = state;
    switch_stack(&current->stack_pointer, scheduler_pointer);
    threadIdx = current->index;
}
void block_barrier() { leave(AT_BLOCK); }
void warp_barrier() { leave(AT_WARP); }
u32 (*warp_words())[8] { return words[threadIdx.x / 32]; }

static void fibre_main() {
    body(body_args);
    leave(DONE);
    abort();
}

static void run_block(u32 threads) {
    for (u32 t = 0; t < threads; t++) {
        Fibre &f = fibres[t];
        if (!f.stack) f.stack = (char *)mmap(0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        void **top = (void **)(f.stack + STACK);
        *--top = 0; // keeps the alignment of a call
        *--top = (void *)fibre_main;
        for (int i = 0; i < 6; i++) *--top = 0;
        f.stack_pointer = top, f.state = READY, f.index = {t, 0, 0};
    }
    for (;;) {
        bool ran = false;
        u32 at_block = 0, done = 0;
        for (u32 warp = 0; warp < threads; warp += 32) {
            u32 end = warp + 32 < threads ? warp + 32 : threads, waiting = 0, alive = 0;
            for (u32 t = warp; t < end; t++) {
                Fibre &f = fibres[t];
                if (f.state == READY) {
                    current = &f, threadIdx = f.index, ran = true;
                    switch_stack(&scheduler_pointer, f.stack_pointer);
                }
                waiting += f.state == AT_WARP, alive += f.state != DONE, at_block += f.state == AT_BLOCK, done += f.state == DONE;
            }
            if (waiting && waiting == alive) {
                for (u32 t = warp; t < end; t++)
                    if (fibres[t].state == AT_WARP) fibres[t].state = READY;
                ran = true;
            }
        }
        if (done == threads) return;
        if (at_block && at_block + done == threads) {
            for (u32 t = 0; t < threads; t++)
                if (fibres[t].state == AT_BLOCK) fibres[t].state = READY;
        } else if (!ran) {
            fprintf(stderr, "emulator: threads wait at different barriers\n");
            abort();
        }
    }
}

// Kernels by name.
template <class... A, size_t... I> static void call(void (*f)(A...), void **args, std::index_sequence<I...>) { f(*(A *)args[I]...); }
template <class... A> static void unpack_call(void (*f)(A...), void **args) { call(f, args, std::index_sequence_for<A...>()); }
struct Entry {
    const char *name;
    void (*run)(void **);
};
#define ENTRY(name) {#name, [](void **args) { unpack_call(name, args); }}
#define ENTRIES(f) ENTRY(og_few8_##f), ENTRY(og_few16_##f), ENTRY(og_batch_##f), ENTRY(og_wide_##f), ENTRY(og_prompt_##f)
static const Entry entries[] = {ENTRY(og_repack_values), ENTRY(og_repack_scales), ENTRY(og_embed), ENTRY(og_norm_quantise),
    ENTRY(og_norm_add), ENTRY(og_quantise), ENTRY(og_gate_quantise), ENTRY(og_softcap), ENTRY(og_choose), ENTRY(og_rotate_store), ENTRY(og_attend1),
    ENTRY(og_attend2), ENTRY(og_attend4), ENTRY(og_attend8), ENTRY(og_attend_tile16), ENTRY(og_attend_tile32), ENTRY(og_attend_tile64), ENTRY(og_attend_tile128),
    ENTRY(og_digest), ENTRIES(q8_0), ENTRIES(q4_0), ENTRIES(q4_k), ENTRIES(q6_k)};

// Memory that ends at a page that nobody may touch, filled with NaN.
static std::map<u64, std::pair<void *, size_t>> regions;
static std::mutex mutex;

#define API extern "C" __attribute__((visibility("default"))) int
API cuInit(u32) { return 0; }
API cuDriverGetVersion(int *v) { return *v = 13000, 0; }
API cuDeviceGetCount(int *n) { return *n = 1, 0; }
API cuDeviceGet(int *d, int ordinal) { return ordinal ? 101 : (*d = 0, 0); }
API cuDeviceGetName(char *name, int n, int) { return snprintf(name, n, "emulator"), 0; }
API cuDeviceTotalMem_v2(size_t *n, int) { return *n = (size_t)4 << 30, 0; }
API cuDeviceGetAttribute(int *v, int what, int) {
    *v = what == 97 ? 227 << 10 : what == 16 ? 132 : what == 75 ? 9 : 0;
    return 0;
}
API cuDevicePrimaryCtxRetain(void **c, int) { return *c = (void *)1, 0; }
API cuDevicePrimaryCtxRelease_v2(int) { return 0; }
API cuCtxSetCurrent(void *) { return 0; }
API cuCtxSynchronize() { return 0; }
API cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = *total = (size_t)4 << 30, 0; }
API cuModuleLoadData(void **m, const void *) { return *m = (void *)1, 0; }
API cuModuleUnload(void *) { return 0; }
API cuModuleGetFunction(void **f, void *, const char *name) {
    for (const Entry &e : entries)
        if (!strcmp(e.name, name)) return *f = (void *)&e, 0;
    return 500;
}
API cuFuncSetAttribute(void *, int, int) { return 0; }
API cuMemAlloc_v2(u64 *p, size_t n) {
    std::lock_guard<std::mutex> lock(mutex);
    size_t used = (n + 15) / 16 * 16, pages = (used + 4095) / 4096 * 4096;
    char *at = (char *)mmap(0, pages + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return 2;
    mprotect(at + pages, 4096, PROT_NONE);
    *p = (u64)(at + pages - used);
    if (n < (64 << 20)) memset((void *)*p, 0xff, n);
    regions[*p] = {at, pages + 4096};
    return 0;
}
API cuMemFree_v2(u64 p) {
    std::lock_guard<std::mutex> lock(mutex);
    munmap(regions[p].first, regions[p].second);
    return regions.erase(p), 0;
}
API cuMemHostAlloc(void **p, size_t n, u32) { return (*p = malloc(n)) ? 0 : 2; }
API cuMemFreeHost(void *p) { return free(p), 0; }
API cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t n, void *) { return memcpy((void *)to, from, n), 0; }
API cuMemcpyDtoHAsync_v2(void *to, u64 from, size_t n, void *) { return memcpy(to, (void *)from, n), 0; }
API cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t n, void *) { return memcpy((void *)to, (void *)from, n), 0; }
API cuMemsetD8Async(u64 to, unsigned char v, size_t n, void *) { return memset((void *)to, v, n), 0; }
API cuStreamCreate(void **s, u32) { return *s = (void *)1, 0; }
API cuStreamDestroy_v2(void *) { return 0; }
API cuStreamSynchronize(void *) { return 0; }
API cuStreamBeginCapture_v2(void *, int) { return 801; }
API cuGetErrorName(int, const char **s) { return *s = "emulated", 0; }
API cuGetErrorString(int, const char **s) { return *s = "an error of the emulator", 0; }
API cuEventCreate(void **e, u32) { return *e = (void *)1, 0; }
API cuEventRecord(void *, void *) { return 0; }
API cuEventSynchronize(void *) { return 0; }
API cuEventElapsedTime_v2(float *ms, void *, void *) { return *ms = 1, 0; }
API cuEventDestroy_v2(void *) { return 0; }
struct LaunchConfig {
    u32 gx, gy, gz, bx, by, bz, shared;
    void *stream, *attributes;
    u32 count;
};
API cuLaunchKernel(void *f, u32 gx, u32 gy, u32 gz, u32 bx, u32, u32, u32 shared, void *, void **args, void **);
API cuLaunchKernelEx(const LaunchConfig *c, void *f, void **args, void **extra) {
    return cuLaunchKernel(f, c->gx, c->gy, c->gz, c->bx, 1, 1, c->shared, 0, args, extra);
}
API cuLaunchKernel(void *f, u32 gx, u32 gy, u32 gz, u32 bx, u32, u32, u32 shared, void *, void **args, void **) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!gx || !gy || !gz || !bx || bx > FIBRES || gy > 65535 || gz > 65535) return 1;
    body = ((Entry *)f)->run, body_args = args;
    std::vector<uint4> memory(shared / 16 + 1);
    dynamic_memory = (unsigned char *)memory.data();
    blockDim = {bx, 1, 1}, gridDim = {gx, gy, gz};
    for (u32 z = 0; z < gz; z++)
        for (u32 y = 0; y < gy; y++)
            for (u32 x = 0; x < gx; x++) {
                memset(dynamic_memory, 0xff, shared);
                blockIdx = {x, y, z};
                run_block(bx);
            }
    return 0;
}
