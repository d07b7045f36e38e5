// Vectors, threads, and matrix products in registers, for all kernels. Everything is float32.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {
#ifdef __AVX512F__
constexpr int LANES = 16, MOST = 4;  // MOST: vectors in a register block
#else
constexpr int LANES = 8, MOST = 2;
#endif
constexpr int UNIT = 24;  // what the rows of every register block divide
typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4)));

inline Vec load(const float* p) { return *(const Vec*)p; }
inline void store(float* p, Vec v) { *(Vec*)p = v; }
inline Vec all(float x) { return x - Vec{}; }  // x + 0 would be computed, for the sake of -0
inline long padded(long n) { return (n + LANES - 1) / LANES * LANES; }

struct Part {  // the first `count` floats of a vector; the rest is zero, and not touched in memory
#ifdef __AVX512F__
    const __mmask16 mask;
    explicit Part(int count) : mask(count >= LANES ? 0xffff : (1u << count) - 1) {}
    Vec load(const float* p) const { return (Vec)_mm512_maskz_loadu_ps(mask, p); }
    void store(float* p, Vec v) const {
        if (mask == 0xffff) *(Vec*)p = v;
        else _mm512_mask_storeu_ps(p, mask, (__m512)v);
    }
#else
    const int count;
    explicit Part(int count) : count(std::min(count, LANES)) {}
    Vec load(const float* p) const {
        if (count == LANES) return *(const Vec*)p;
        Vec v{};
        for (int i = 0; i < count; i++) v[i] = p[i];
        return v;
    }
    void store(float* p, Vec v) const {
        if (count == LANES) *(Vec*)p = v;
        else for (int i = 0; i < count; i++) p[i] = v[i];
    }
#endif
};

// memory that a thread keeps from one call to the next
float* workspace(long floats) {
    thread_local std::unique_ptr<float, decltype(&free)> memory{nullptr, &free};
    thread_local long size = 0;
    if (size < floats) {
        size = floats + floats / 4 + 64;
        memory.reset((float*)aligned_alloc(64, size * 4 / 64 * 64 + 64));
    }
    return memory.get();
}

template <class Work> void in_parallel(int threads, const Work& work) {
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads; i++) helpers.emplace_back([&work, i] { work(i); });
    work(0);
    for (std::thread& helper : helpers) helper.join();
}

// ---- matrix products: ROWS x VECTORS sums at once in registers
// out[r][v] (+)= sum_k in[r][k] * weight[k][v]
#define EACH _Pragma("GCC unroll 24") for  // unrolled early, or else the sums go through memory
template <int ROWS, int VECTORS, bool MORE>
inline void block(const float* in, long in_pitch, const float* weight, int depth, float* out, long out_pitch) {
    Vec sum[ROWS][VECTORS];
    EACH (int r = 0; r < ROWS; r++)
        EACH (int v = 0; v < VECTORS; v++) sum[r][v] = MORE ? load(out + r * out_pitch + v * LANES) : Vec{};
    for (int k = 0; k < depth; k++) {
        Vec w[VECTORS];
        EACH (int v = 0; v < VECTORS; v++) w[v] = load(weight + (k * VECTORS + v) * LANES);
        EACH (int r = 0; r < ROWS; r++)
            EACH (int v = 0; v < VECTORS; v++) sum[r][v] += in[r * in_pitch + k] * w[v];
    }
    EACH (int r = 0; r < ROWS; r++)
        EACH (int v = 0; v < VECTORS; v++) store(out + r * out_pitch + v * LANES, sum[r][v]);
}

// sums[i][v] += sum_t in[t][i] * gradient[t][v]
template <int ROWS, int VECTORS>
inline void outer_block(const float* in, long in_pitch, const float* gradient, long pitch, long tiles, float* sums) {
    Vec sum[ROWS][VECTORS];
    EACH (int r = 0; r < ROWS; r++)
        EACH (int v = 0; v < VECTORS; v++) sum[r][v] = load(sums + (r * VECTORS + v) * LANES);
    for (long t = 0; t < tiles; t++, in += in_pitch, gradient += pitch) {
        Vec g[VECTORS];
        EACH (int v = 0; v < VECTORS; v++) g[v] = load(gradient + v * LANES);
        EACH (int r = 0; r < ROWS; r++)
            EACH (int v = 0; v < VECTORS; v++) sum[r][v] += in[r] * g[v];
    }
    EACH (int r = 0; r < ROWS; r++)
        EACH (int v = 0; v < VECTORS; v++) store(sums + (r * VECTORS + v) * LANES, sum[r][v]);
}

constexpr int rows_for(int vectors) { return LANES == 16 ? (vectors == 1 ? 12 : UNIT / vectors) : vectors == 1 ? 12 : 6; }
}  // namespace
