// The layers of mlp.cpp, of blocks of pixels, a pixel per lane: out[o][p] = sum_c in[c][p] * weight[c][o]. And what they
// need to know about numbers of either type.
#pragma once
#include <array>
#include <cstdint>
#include <utility>

#include "registers.h"

namespace {
constexpr int VECTORS = 2, TILE = LANES == 16 ? 14 : 6;
template <class N> constexpr int BLOCK = VECTORS * lanes<N>;  // pixels

// A number that will be spread over a vector. 32 bits are spread at once and 16 are not, so float16 is there twice.
template <class N> using Spread = std::conditional_t<sizeof(N) == 4, float, uint32_t>;
inline Vec spread(const float* p) { return all(*p); }
inline float spreadable(float x, float) { return x; }
typedef int32_t Places __attribute__((vector_size(LANES * 4)));

// line[at[lane]] in every lane; `far`: not all lie within the first vector, but within the second
inline Vec pick(const float* line, Places at, bool far) {
#ifdef __AVX512F__
    return (Vec)_mm512_permutex2var_ps((__m512)load(line), (__m512i)at, far ? (__m512)load(line + LANES) : __m512{});
#elif defined __AVX2__
    const __m256 near = _mm256_permutevar8x32_ps((__m256)load(line), (__m256i)at);
    if (!far) return (Vec)near;
    const __m256 behind = _mm256_permutevar8x32_ps((__m256)load(line + LANES), (__m256i)at);
    return (Vec)_mm256_blendv_ps(near, behind, (__m256)_mm256_slli_epi32((__m256i)at, 28));  // bit 3 says which
#else
    Vec v;
    for (int i = 0; i < LANES; i++) v[i] = line[at[i]];
    return v;
#endif
}

#ifdef __AVX512FP16__
typedef VecOf<Half> HalfVec;
typedef uint16_t HalfPlaces __attribute__((vector_size(BYTES)));
inline HalfVec spread(const uint32_t* p) { return (HalfVec)_mm512_set1_epi32(*p); }
inline uint32_t spreadable(float x, Half) {
    const Half half = x;
    uint16_t bits;
    std::copy_n((const char*)&half, 2, (char*)&bits);
    return bits * 0x10001u;
}
inline HalfVec relu(HalfVec v) { return (v > 0 ? v : HalfVec{}) + v * (Half)0; }  // infinite becomes no number, which stays
inline HalfVec pick(const Half* line, HalfPlaces at, bool far) {
    if (!far) return (HalfVec)_mm512_permutexvar_epi16((__m512i)at, (__m512i)load(line));
    return (HalfVec)_mm512_permutex2var_epi16((__m512i)load(line), (__m512i)at, (__m512i)load(line + lanes<Half>));
}
template <class N> using PlacesOf = std::conditional_t<sizeof(N) == 4, Places, HalfPlaces>;

// whether the first lanes of a sum of values times zero are zero: then no value was infinite, or not a number
inline bool finite(HalfVec zero, int count) {
    const __mmask32 other = _mm512_cmp_ph_mask((__m512h)zero, __m512h{}, _CMP_NEQ_UQ);
    return !(other & PartOf<Half>(count).mask);
}
#else
template <class N> using PlacesOf = Places;
#endif

template <class N> using Place = std::decay_t<decltype(PlacesOf<N>{}[0])>;

template <class N> struct Layer {
    int in, out;  // channels
    const Spread<N>*weight, *bias;
    bool rectify;
};

// in (l.in, BLOCK); out[i] lies at i * pitch
template <int OUTPUTS, class N> void tile(const Layer<N>& l, const N* in, N* out, long pitch, int o) {
    constexpr int L = lanes<N>;
    VecOf<N> sum[OUTPUTS][VECTORS];
    EACH (int i = 0; i < OUTPUTS; i++)
        EACH (int v = 0; v < VECTORS; v++) sum[i][v] = spread(l.bias + o + i);
    const Spread<N>* weight = l.weight + o;
    for (int c = 0; c < l.in; c++, weight += l.out, in += BLOCK<N>) {
        VecOf<N> x[VECTORS];
        EACH (int v = 0; v < VECTORS; v++) x[v] = load(in + v * L);
        EACH (int i = 0; i < OUTPUTS; i++) {
            const VecOf<N> w = spread(weight + i);
            EACH (int v = 0; v < VECTORS; v++) sum[i][v] = fused(x[v], w, sum[i][v]);
        }
    }
    EACH (int i = 0; i < OUTPUTS; i++)
        EACH (int v = 0; v < VECTORS; v++) store(out + (o + i) * pitch + v * L, l.rectify ? relu(sum[i][v]) : sum[i][v]);
}

template <class N, int... I> void run(const Layer<N>& l, const N* in, N* out, long pitch, std::integer_sequence<int, I...>) {
    typedef void (*Run)(const Layer<N>&, const N*, N*, long, int);
    static constexpr std::array<Run, TILE> tiles{tile<I + 1, N>...};
    const int count = (l.out + TILE - 1) / TILE;
    for (int i = 0; i < count; i++) {
        const int from = i * l.out / count, to = (i + 1) * l.out / count;
        tiles[to - from - 1](l, in, out, pitch, from);
    }
}

template <class N> void run(const Layer<N>& l, const N* in, N* out, long pitch) {
    run(l, in, out, pitch, std::make_integer_sequence<int, TILE>{});
}
}  // namespace
