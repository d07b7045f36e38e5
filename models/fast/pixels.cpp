// What is done at every HR pixel: one MLP at those that chose it, the bilinear residual before, refinement and rounding
// after. Built by build.py, called by pixels.py.
//
//   table  (h*w, C0)   first layer's feature part and bias, a row per LR pixel   rows are padded with zeros to a
//   row    (H, C0)     its y part, a row per HR row                              multiple of LANES floats, so that
//   col    (W, C0)     its x part, a row per HR column                           no vector straddles two pixels
//   weight             for each later layer (Cin, Cout), then its bias (Cout)
//
//   The pixels of an HR row that chose this MLP are packed into blocks of BLOCK, whose activations stay in the cache:
//     in[p][c]  = relu(table[nearest(p)][c] + row[y][c] + col[x][c])
//     out[p][o] = relu(bias[o] + sum_c in[p][c] * weight[c][o])     TILE pixels x GROUP vectors at once in registers
//   What the last layer gives is added to the planes (n, H, W) of the output.
#include <cmath>
#include <cstdint>
#include <utility>

#include "registers.h"

constexpr int TILE = LANES == 16 ? 5 : 6, GROUP = LANES == 16 ? 5 : 2;
constexpr int BLOCK = 60;  // a multiple of TILE

static inline Vec relu(Vec v) { return v > 0 ? v : Vec{}; }
static inline int pad(int n) { return (int)padded(n); }

struct Layer {
    int in, out;  // channels
    const float *weight, *bias;
    bool rectify;
};

// Rows 0 .. height - 1 handed out to threads; work takes the next one's number until there are none left.
template <typename Work>
static void each_row(int height, int threads, Work work) {
    std::atomic<int> next{0};
    in_parallel(std::min(threads, height), [&](int) { work(next); });
}

// TILE pixels by G vectors of outputs, from output `o` on
template <int G>
static inline void tile(const Layer& l, const float* in, float* out, int o) {
    const int in_row = pad(l.in), out_row = pad(l.out);
    Vec sum[TILE][G];
    for (int p = 0; p < TILE; p++)
        for (int g = 0; g < G; g++) sum[p][g] = load(l.bias + o + g * LANES);
    for (int c = 0; c < l.in; c++) {
        Vec weight[G];
        for (int g = 0; g < G; g++) weight[g] = load(l.weight + (long)c * out_row + o + g * LANES);
        for (int p = 0; p < TILE; p++) {
            const Vec x = all(in[p * in_row + c]);
            for (int g = 0; g < G; g++) sum[p][g] += x * weight[g];
        }
    }
    for (int p = 0; p < TILE; p++)
        for (int g = 0; g < G; g++) store(out + p * out_row + o + g * LANES, l.rectify ? relu(sum[p][g]) : sum[p][g]);
}

static void run(const Layer& l, const float* in, float* out, int pixels) {
    for (int p = 0; p < pixels; p += TILE) {
        const float* from = in + p * pad(l.in);
        float* to = out + p * pad(l.out);
        int o = 0, left = pad(l.out) / LANES;
        for (; left >= GROUP; left -= GROUP, o += GROUP * LANES) tile<GROUP>(l, from, to, o);
        if (GROUP > 4 && left == 4) tile<4>(l, from, to, o);
        if (GROUP > 3 && left == 3) tile<3>(l, from, to, o);
        if (GROUP > 2 && left == 2) tile<2>(l, from, to, o);
        if (left == 1) tile<1>(l, from, to, o);
    }
}

extern "C" int lanes() { return LANES; }

// widths: outputs of the first layer, then of the `depth` later ones. index: the LR row or column each HR one reads.
// assignment (H, W): the MLP each pixel chose, of which this is number `own`; null: all choose it.
extern "C" void mlp_at(
    const float* table, const float* row, const float* col, const int64_t* row_index, const int64_t* col_index, int w,
    const float* weight, const int* widths, int depth, const uint8_t* assignment, int own, int height, int width,
    float* planes, int threads
) {
    std::vector<Layer> layers;
    int widest = pad(widths[0]);
    for (int i = 0; i < depth; i++) {
        const int in = widths[i], out = widths[i + 1];
        layers.push_back({in, out, weight, weight + (long)in * pad(out), i + 1 < depth});
        weight += (long)(in + 1) * pad(out);
        if (pad(out) > widest) widest = pad(out);
    }
    const int first = pad(widths[0]), last = widths[depth];
    const long plane = (long)height * width;
    each_row(height, threads, [&](std::atomic<int>& next) {
        std::vector<float> one(BLOCK * widest), two(BLOCK * widest);
        int chosen[BLOCK];
        for (int y; (y = next++) < height;) {
            const float *features = table + row_index[y] * w * first, *vertical = row + (long)y * first;
            for (int x = 0; x < width;) {
                int pixels = 0;
                for (; x < width && pixels < BLOCK; x++)
                    if (!assignment || assignment[(long)y * width + x] == own) chosen[pixels++] = x;
                float *in = one.data(), *out = two.data();
                for (int p = 0; p < pixels; p++) {
                    const float *nearest = features + col_index[chosen[p]] * first, *across = col + (long)chosen[p] * first;
                    for (int c = 0; c < first; c += LANES) {
                        const Vec sum = load(nearest + c) + load(vertical + c) + load(across + c);
                        store(in + p * first + c, depth ? relu(sum) : sum);
                    }
                }
                for (const Layer& layer : layers) {
                    run(layer, in, out, pixels);
                    std::swap(in, out);
                }
                for (int p = 0; p < pixels; p++)
                    for (int o = 0; o < last; o++) planes[o * plane + (long)y * width + chosen[p]] += in[p * pad(last) + o];
            }
        }
    });
}

// lr planes of (h, w) at (height, width); per axis, two LR positions and the weight of the second.
extern "C" void bilinear(
    const float* lr, int planes, int h, int w, const int64_t* row_low, const int64_t* row_high, const float* row_weight,
    const int64_t* col_low, const int64_t* col_high, const float* col_weight, int height, int width, float* out, int threads
) {
    each_row(height, threads, [&](std::atomic<int>& next) {
        std::vector<float> line(w);
        for (int y; (y = next++) < height;)
            for (int p = 0; p < planes; p++) {
                const float *top = lr + ((long)p * h + row_low[y]) * w, *bottom = lr + ((long)p * h + row_high[y]) * w;
                for (int x = (int)col_low[0]; x <= col_high[width - 1]; x++)
                    line[x] = top[x] + row_weight[y] * (bottom[x] - top[x]);
                float* row = out + ((long)p * height + y) * width;
                for (int x = 0; x < width; x++) {
                    const float left = line[col_low[x]];
                    row[x] = left + col_weight[x] * (line[col_high[x]] - left);
                }
            }
    });
}

// A pixel that has a heavier one among its eight neighbours takes the mean of the nine, but not at the image's border;
// clamped to [0,1] and rounded. sr (3, height, width), assignment (height, width) or null; out: (row, column, colour).
template <typename Level>
static void round_rows(
    const float* sr, const uint8_t* assignment, int height, int width, int top, int bottom, int left, int right,
    int levels, Level* out, long stride, int threads
) {
    each_row(bottom - top, threads, [&](std::atomic<int>& next) {
        std::vector<uint8_t> heaviest(width), own(width);
        std::vector<float> columns(width), line(width);
        for (int i; (i = next++) < bottom - top;) {
            const int y = top + i;
            const bool refined = assignment && y > 0 && y < height - 1 && width > 2;
            if (refined) {
                const uint8_t* rows = assignment + (long)(y - 1) * width;
                for (int x = 0; x < width; x++) {
                    own[x] = std::max(rows[x], std::max(rows[x + width], rows[x + 2 * width]));
                }
                for (int x = 1; x < width - 1; x++)
                    heaviest[x] = std::max(own[x - 1], std::max(own[x], own[x + 1])) > rows[x + width];
            }
            for (int c = 0; c < 3; c++) {
                const float* rows = sr + ((long)c * height + y) * width;
                const float* shown = rows;
                if (refined) {
                    for (int x = 0; x < width; x++) columns[x] = rows[x - width] + rows[x] + rows[x + width];
                    line[0] = rows[0], line[width - 1] = rows[width - 1];
                    for (int x = 1; x < width - 1; x++) {
                        const float mean = (columns[x - 1] + columns[x] + columns[x + 1]) / 9;
                        line[x] = heaviest[x] ? mean : rows[x];
                    }
                    shown = line.data();
                }
                Level* to = out + i * stride + c;
                for (int x = left; x < right; x++) {
                    const float clamped = shown[x] > 0 ? std::min(shown[x], 1.f) : 0.f;
                    to[3 * (x - left)] = (Level)std::nearbyint(clamped * levels);
                }
            }
        }
    });
}

extern "C" void refine_and_round(
    const float* sr, const uint8_t* assignment, int height, int width, int top, int bottom, int left, int right,
    int levels, void* out, long stride, int threads
) {
    auto run = [&](auto* to) {
        round_rows(sr, assignment, height, width, top, bottom, left, right, levels, to, stride, threads);
    };
    if (levels == 255) run((uint8_t*)out);
    else run((uint16_t*)out);
}
