// The convolutions of an encoder, one image, stride 1, zero padding. Built and called by kernel.py.
//
//   A value is (margin + h + margin, C, pitch): image rows, in a row channel after channel, in a channel its pixels
//
//     | LANES zeros | w pixels | zeros up to pitch, LANES at least |        so that all a row of outputs needs lies in
//                                                                           2 * radius + 1 short runs of memory
//   margin rows, and what lies beside the pixels, stay zero: the padding of the next convolution.
//   weight, of a group: (cin * k * k, cout), then the next group's.   Inputs are read side by side: no concatenation.
//
//   OUT channels x VECTORS vectors of pixels at once in registers; every loaded vector serves OUT sums.
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#ifdef __AVX512F__
constexpr int LANES = 16, ODD = 13, WIDE = 6;
#else
constexpr int LANES = 8, ODD = 13, WIDE = 3;
#endif
constexpr int EVEN = 4, NARROW = LANES == 16 ? 2 : 1;  // ODD x NARROW for groups of 13 channels, else EVEN x WIDE
typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4)));

struct Step {
    const float* in[8];
    int channels[8];  // of each input; a grouped convolution has one input
    int inputs;
    float* out;
    const float* add;  // (same shape as out) added before the activation, or null
    const float *weight, *bias;
    const float* slope;  // per output channel below zero, or null: no activation
    int groups, cin, cout, k;  // cin and cout of a group
};

static inline Vec load(const float* p) { return *(const Vec*)p; }
static inline Vec all(float x) { return x - Vec{}; }  // x + 0 would be computed, for the sake of -0

template <int OUT, int VECTORS>
static inline void tile(
    const float* const* taps, int count, const float* weight, int cout, const float* bias, const float* slope,
    const float* add, float* out, int pitch, int x
) {
    Vec sum[OUT][VECTORS];
    for (int o = 0; o < OUT; o++)
        for (int v = 0; v < VECTORS; v++) sum[o][v] = all(bias[o]);
    for (int t = 0; t < count; t++) {
        Vec in[VECTORS];
        for (int v = 0; v < VECTORS; v++) in[v] = load(taps[t] + x + v * LANES);
        for (int o = 0; o < OUT; o++) {
            const Vec w = all(weight[t * cout + o]);
            for (int v = 0; v < VECTORS; v++) sum[o][v] += w * in[v];
        }
    }
    for (int o = 0; o < OUT; o++)
        for (int v = 0; v < VECTORS; v++) {
            const long at = (long)o * pitch + x + v * LANES;
            Vec value = sum[o][v];
            if (add) value += load(add + at);
            if (slope) value = value > 0 ? value : value * slope[o];
            *(Vec*)(out + at) = value;
        }
}

// One output row of `OUT` channels
template <int OUT, int VECTORS, typename... Rest>
static inline void line(int w, Rest... rest) {
    int x = 0;
    const int end = (w + LANES - 1) / LANES * LANES;
    for (; x + VECTORS * LANES <= end; x += VECTORS * LANES) tile<OUT, VECTORS>(rest..., x);
    if constexpr (VECTORS > 3)
        for (; x + 3 * LANES <= end; x += 3 * LANES) tile<OUT, 3>(rest..., x);
    for (; x < end; x += LANES) tile<OUT, 1>(rest..., x);
}

static void row(const Step& s, int y, int w, int pitch, int margin, std::vector<const float*>& taps) {
    const int radius = s.k / 2, outputs = s.groups * s.cout;
    for (int g = 0; g < s.groups; g++) {
        taps.clear();
        for (int i = 0; i < s.inputs; i++) {
            const int first = s.groups > 1 ? g * s.cin : 0, count = s.groups > 1 ? s.cin : s.channels[i];
            for (int c = first; c < first + count; c++)
                for (int dy = -radius; dy <= radius; dy++)
                    for (int dx = -radius; dx <= radius; dx++)
                        taps.push_back(s.in[i] + ((long)(y + margin + dy) * s.channels[i] + c) * pitch + LANES + dx);
        }
        const float* weight = s.weight + (long)g * taps.size() * s.cout;
        for (int o = 0; o < s.cout;) {
            const int channel = g * s.cout + o, left = s.cout - o, n = (int)taps.size();
            const long at = ((long)(y + margin) * outputs + channel) * pitch + LANES;
            const float *bias = s.bias + channel, *slope = s.slope ? s.slope + channel : nullptr;
            const float* add = s.add ? s.add + at : nullptr;
            auto lines = [&](auto size, auto vectors) {
                constexpr int out = decltype(size)::value, wide = decltype(vectors)::value;
                line<out, wide>(w, taps.data(), n, weight + o, s.cout, bias, slope, add, s.out + at, pitch);
                for (int c = 0; c < out; c++) {  // the last vectors went beyond the image
                    float* pixels = s.out + at + (long)c * pitch;
                    std::fill(pixels + w, pixels + (w + LANES - 1) / LANES * LANES, 0.f);
                }
                o += out;
            };
            using std::integral_constant;
            if (s.cout % ODD == 0 && s.cout % EVEN) lines(integral_constant<int, ODD>{}, integral_constant<int, NARROW>{});
            else if (left >= EVEN) lines(integral_constant<int, EVEN>{}, integral_constant<int, WIDE>{});
            else lines(integral_constant<int, 1>{}, integral_constant<int, WIDE>{});
        }
    }
}

extern "C" void convolve(const Step* steps, int count, int h, int w, int pitch, int margin, int threads) {
    std::vector<std::atomic<int>> next(count);
    std::atomic<int> arrived{0};
    for (auto& rows : next) rows = 0;
    auto work = [&] {
        std::vector<const float*> taps;
        for (int i = 0; i < count; i++) {
            for (int y; (y = next[i]++) < h;) row(steps[i], y, w, pitch, margin, taps);
            arrived++;  // a step reads its neighbours' rows of the one before: all wait for all
            while (arrived < threads * (i + 1)) std::this_thread::yield();
        }
    };
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads; i++) helpers.emplace_back(work);
    work();
    for (std::thread& helper : helpers) helper.join();
}
