// Vectors, threads, and matrix products in registers, for all kernels. N is the type of the numbers: float, and Half
// where the processor computes in float16.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {
#ifdef __AVX512F__
constexpr int BYTES = 64;  // of a vector
#elif defined __AVX__ || defined __clang__
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;  // of NEON and SSE: g++ keeps wider vectors in memory
#endif
#ifdef __AVX512FP16__
typedef _Float16 Half;
#endif
template <class N> struct Register {
    typedef N Type __attribute__((vector_size(BYTES), aligned(sizeof(N))));
};
template <class N> using VecOf = typename Register<N>::Type;
template <class N> constexpr int lanes = BYTES / (int)sizeof(N);
// vectors in a register block; of float16 one: spreading a number costs an instruction there, unless it is used once
template <class N> constexpr int most = sizeof(N) == 2 ? 1 : BYTES == 64 ? 4 : 2;
typedef VecOf<float> Vec;
constexpr int LANES = lanes<float>, MOST = most<float>;
constexpr int UNIT = 24;  // what the rows of every register block divide

template <class N> inline VecOf<N> load(const N* p) { return *(const VecOf<N>*)p; }
template <class N> inline void store(N* p, VecOf<N> v) { *(VecOf<N>*)p = v; }
template <class N> inline VecOf<N> all(N x) { return x - VecOf<N>{}; }  // x + 0 would be computed, for the sake of -0
template <class N = float> inline long padded(long n) { return (n + lanes<N> - 1) / lanes<N> * lanes<N>; }

// a * b + c. For AMD's Zen 2 and 3, GCC would take two instructions in some places and one in others: as fast, but then
// the same sum differs in its last bit from place to place.
template <class V> inline V fused(V a, V b, V c) {
#if defined __FMA__ && !defined __AVX512F__
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

inline Vec relu(Vec v) { return v < 0 ? Vec{} : v; }  // not a number stays so: a training stops then
inline void store_as(float* p, Vec v) { store(p, v); }
inline Vec load_as_float(const float* p) { return load(p); }
#ifdef __AVX512FP16__
inline Vec load_as_float(const Half* p) { return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline void store_as(Half* p, Vec v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, 0)); }
#endif

template <class N> struct PartOf {  // the first `count` numbers of a vector; the rest is zero, and not touched in memory
#ifdef __AVX512F__
    typedef std::conditional_t<sizeof(N) == 4, __mmask16, __mmask32> Mask;
    const Mask mask;
    explicit PartOf(int count) : mask(count >= lanes<N> ? (Mask)-1 : (Mask)((1u << count) - 1)) {}
    VecOf<N> load(const N* p) const {
        if constexpr (sizeof(N) == 4) return (VecOf<N>)_mm512_maskz_loadu_ps(mask, p);
        else return (VecOf<N>)_mm512_maskz_loadu_epi16(mask, p);
    }
    void store(N* p, VecOf<N> v) const {
        if (mask == (Mask)-1) *(VecOf<N>*)p = v;
        else if constexpr (sizeof(N) == 4) _mm512_mask_storeu_ps(p, mask, (__m512)v);
        else _mm512_mask_storeu_epi16(p, mask, (__m512i)v);
    }
#else
    const int count;
    explicit PartOf(int count) : count(std::min(count, lanes<N>)) {}
    VecOf<N> load(const N* p) const {
        if (count == lanes<N>) return *(const VecOf<N>*)p;
        VecOf<N> v{};
        for (int i = 0; i < count; i++) v[i] = p[i];
        return v;
    }
    void store(N* p, VecOf<N> v) const {
        if (count == lanes<N>) *(VecOf<N>*)p = v;
        else for (int i = 0; i < count; i++) p[i] = v[i];
    }
#endif
};
typedef PartOf<float> Part;

// memory that a thread keeps from one call to the next
template <class N = float> N* workspace(long numbers) {
    thread_local std::unique_ptr<N, decltype(&free)> memory{nullptr, &free};
    thread_local long size = 0;
    if (size < numbers) {
        size = numbers + numbers / 4 + 64;
        memory.reset((N*)aligned_alloc(64, size * sizeof(N) / 64 * 64 + 64));
        if (!memory) fputs("the kernels get no more memory\n", stderr), abort();
    }
    return memory.get();
}

template <class Work> void in_parallel(int threads, const Work& work) {
    std::vector<std::thread> helpers;
    helpers.reserve(threads);
    try {
        for (int i = 1; i < threads; i++) helpers.emplace_back([&work, i] { work(i); });
    } catch (const std::system_error&) {  // the system allows no more threads: this one does their work
    }
    work(0);
    for (int i = (int)helpers.size() + 1; i < threads; i++) work(i);
    for (std::thread& helper : helpers) helper.join();
}

// Rows 0 .. height - 1 handed out to threads; work takes the next one's number until there are none left.
template <class Work> void each_row(int height, int threads, const Work& work) {
    std::atomic<int> next{0};
    in_parallel(std::min(threads, height), [&](int) { work(next); });
}

// ---- matrix products: ROWS x VECTORS sums at once in registers
// out[r][v] (+)= sum_k in[r][k] * weight[k][v]
#define EACH _Pragma("GCC unroll 24") for  // unrolled early, or else the sums go through memory
template <int ROWS, int VECTORS, class N>
[[gnu::always_inline]] inline void add_products(const N* in, long in_pitch, const N* weight, int depth, VecOf<N> (&sum)[ROWS][VECTORS]) {
    const auto add = [&](int k) __attribute__((always_inline)) {
        VecOf<N> w[VECTORS];
        EACH (int v = 0; v < VECTORS; v++) w[v] = load(weight + (k * VECTORS + v) * lanes<N>);
        EACH (int r = 0; r < ROWS; r++)
            EACH (int v = 0; v < VECTORS; v++) sum[r][v] = fused(all(in[r * in_pitch + k]), w[v], sum[r][v]);
    };
    int k = 0;
    for (; k + 4 <= depth; k += 4) add(k), add(k + 1), add(k + 2), add(k + 3);  // short loops end in mispredicted jumps
    for (; k < depth; k++) add(k);
}

constexpr int SHORT = 16;  // products that are summed up by themselves in float16: a sum of few is small, and rounded finely
template <int ROWS, int VECTORS, class N>
[[gnu::always_inline]] inline void add_rounded(const N* in, long in_pitch, const N* weight, int depth, VecOf<N> (&sum)[ROWS][VECTORS]) {
    if constexpr (sizeof(N) == 4) return add_products(in, in_pitch, weight, depth, sum);
    for (int k = 0; k < depth; k += SHORT) {
        VecOf<N> part[ROWS][VECTORS] = {};
        add_products(in + k, in_pitch, weight + k * VECTORS * lanes<N>, std::min(SHORT, depth - k), part);
        EACH (int r = 0; r < ROWS; r++)
            EACH (int v = 0; v < VECTORS; v++) sum[r][v] += part[r][v];
    }
}

template <int ROWS, int VECTORS, bool MORE, class N>
inline void block(const N* in, long in_pitch, const N* weight, int depth, N* out, long out_pitch) {
    constexpr int L = lanes<N>;
    VecOf<N> sum[ROWS][VECTORS];
    EACH (int r = 0; r < ROWS; r++)
        EACH (int v = 0; v < VECTORS; v++) sum[r][v] = MORE ? load(out + r * out_pitch + v * L) : VecOf<N>{};
    add_rounded(in, in_pitch, weight, depth, sum);
    EACH (int r = 0; r < ROWS; r++)
        EACH (int v = 0; v < VECTORS; v++) store(out + r * out_pitch + v * L, sum[r][v]);
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
            EACH (int v = 0; v < VECTORS; v++) sum[r][v] = fused(all(in[r]), g[v], sum[r][v]);
    }
    EACH (int r = 0; r < ROWS; r++)
        EACH (int v = 0; v < VECTORS; v++) store(sums + (r * VECTORS + v) * LANES, sum[r][v]);
}

template <class N = float> constexpr int rows_for(int vectors) {
    if (sizeof(N) == 2) return 12;
    return LANES == 16 ? (vectors == 1 ? 12 : UNIT / vectors) : vectors == 1 ? 12 : 6;
}

template <int VECTORS> using Constant = std::integral_constant<int, VECTORS>;

// work(V), where V is `vectors`, 1 to most<N>, as a constant
template <class N, class Work> void with_vectors(int vectors, const Work& work) {
    switch (vectors) {
        case 1: return work(Constant<1>{});
        case 2: return work(Constant<std::min(2, most<N>)>{});
        case 3: return work(Constant<std::min(3, most<N>)>{});
        default: return work(Constant<most<N>>{});
    }
}
}  // namespace
