// The convolutions of an encoder, one image, stride 1, zero padding. Built by build.py, called by convs.py.
//
//   A value is what a layer gives, row after row, in a row channel after channel, in a channel its pixels:
//
//     | LANES or more zeros | pixels | zeros, LANES or more |      (count, C, pitch), row y at y % count
//
//   Layers run in stages, of which each goes through the image tile by tile, a tile row by row: all layers of the stage
//   advance together, so that what passes between them stays in a core's own cache. Such a value keeps a few rows of
//   its tile; what a later stage reads is kept whole. A layer runs `reach` rows ahead of its stage's last, and computes
//   that many pixels beyond the tile on all sides, because the layers behind it read them.
//
//   weight, of a group: (cin * k * k, cout), then the next group's.   Inputs are read side by side: no concatenation.
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
constexpr int EVEN = 4, NARROW = LANES == 16 ? 2 : 1;  // ODD x NARROW for groups of 13 channels; others as below
typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4)));

struct Value {
    float* rows;  // null: lies in the memory of a tile, at `offset`
    int offset, channels, count, pitch;
};

struct Step {
    int in[8], inputs;  // values; a grouped convolution has one
    int out;
    int add;  // value added before the activation, or -1
    const float *weight, *bias;
    const float* slope;  // per output channel below zero, or null: no activation
    int groups, cin, cout, k;  // cin and cout of a group; no groups: the value in[0] goes to feat
    int reach;
};

struct Region {
    int top, left, bottom, right;
};

struct Stage {
    int first, end;  // steps
    int height, width;  // of its tiles
    int reach;  // the largest
    Region region;  // what it computes of the image: all that later stages read
};

struct Image {
    const Value* values;
    const float* zeros;  // a row outside of it, of any value
    float* feat;         // (rows, columns, C) of the last stage's region
    Region region;
    int h, w;
};

struct Tile {
    const Image& image;
    int top, left, bottom, right;
    int origin;  // the pixel at the start of a row in the tile's memory
    float* memory;

    // channel 0, pixel 0 of row y
    float* row(const Value& v, int y) const {
        if (y < 0 || y >= image.h) return const_cast<float*>(image.zeros) + LANES;
        const long at = (long)(y % v.count) * v.channels * v.pitch;
        return v.rows ? v.rows + at + LANES : memory + v.offset + at - origin;
    }
};

static inline Vec load(const float* p) { return *(const Vec*)p; }
static inline Vec all(float x) { return x - Vec{}; }  // x + 0 would be computed, for the sake of -0

struct Line {  // of output pixels: what all its tiles of registers share
    const float* const* taps;
    int count;
    const float *weight, *bias, *slope;
    int cout;
    const float* add;
    int add_pitch;
    float* out;
    int pitch;
    int from, end;  // pixels
};

template <int OUT, int VECTORS>
static inline void sums(const Line& l, int x) {
    Vec sum[OUT][VECTORS];
    for (int o = 0; o < OUT; o++)
        for (int v = 0; v < VECTORS; v++) sum[o][v] = all(l.bias[o]);
    for (int t = 0; t < l.count; t++) {
        Vec in[VECTORS];
        for (int v = 0; v < VECTORS; v++) in[v] = load(l.taps[t] + x + v * LANES);
        for (int o = 0; o < OUT; o++) {
            const Vec w = all(l.weight[t * l.cout + o]);
            for (int v = 0; v < VECTORS; v++) sum[o][v] += w * in[v];
        }
    }
    for (int o = 0; o < OUT; o++)
        for (int v = 0; v < VECTORS; v++) {
            Vec value = sum[o][v];
            if (l.add) value += load(l.add + (long)o * l.add_pitch + x + v * LANES);
            if (l.slope) value = value > 0 ? value : value * l.slope[o];
            float* out = l.out + (long)o * l.pitch + x + v * LANES;
            if (x + (v + 1) * LANES <= l.end) *(Vec*)out = value;
            else for (int i = 0; x + v * LANES + i < l.end; i++) out[i] = value[i];  // beyond is another tile's
        }
}

// OUT channels; reads beyond the last pixel, by less than LANES, are of no consequence
template <int OUT, int VECTORS>
static inline void line(const Line& l) {
    int x = l.from;
    for (; x + (VECTORS - 1) * LANES < l.end; x += VECTORS * LANES) sums<OUT, VECTORS>(l, x);
    if constexpr (VECTORS > 3)
        for (; x + 2 * LANES < l.end; x += 3 * LANES) sums<OUT, 3>(l, x);
    for (; x < l.end; x += LANES) sums<OUT, 1>(l, x);
}

static void convolve_row(const Tile& tile, const Step& s, int y, int from, int end, std::vector<const float*>& taps) {
    const Value *values = tile.image.values, &result = values[s.out];
    const int radius = s.k / 2, outputs = s.groups * s.cout;
    float* row = tile.row(result, y);
    for (int g = 0; g < s.groups; g++) {
        taps.resize((size_t)s.cin * s.k * s.k);
        size_t start = 0;
        for (int i = 0; i < s.inputs; i++) {
            const Value& in = values[s.in[i]];
            const int first = s.groups > 1 ? g * s.cin : 0, count = s.groups > 1 ? s.cin : in.channels;
            for (int dy = 0; dy < s.k; dy++) {
                const float* above = tile.row(in, y + dy - radius) + (long)first * in.pitch - radius;
                for (int c = 0; c < count; c++)
                    for (int dx = 0; dx < s.k; dx++)
                        taps[start + (c * s.k + dy) * s.k + dx] = above + (long)c * in.pitch + dx;
            }
            start += (size_t)count * s.k * s.k;
        }
        for (int o = 0; o < s.cout;) {
            const int channel = g * s.cout + o, left = s.cout - o;
            Line l{taps.data(), (int)taps.size(), s.weight + g * taps.size() * s.cout + o, s.bias + channel,
                   s.slope ? s.slope + channel : nullptr, s.cout, nullptr, 0, row + (long)channel * result.pitch, result.pitch, from, end};
            if (s.add >= 0) {
                l.add_pitch = values[s.add].pitch;
                l.add = tile.row(values[s.add], y) + (long)channel * l.add_pitch;
            }
            if (s.cout % ODD == 0 && s.cout % EVEN) line<ODD, NARROW>(l), o += ODD;
            else if (LANES == 16 && left == 12) line<12, 2>(l), o += 12;
            else if (LANES == 16 && left >= 8) line<8, 3>(l), o += 8;
            else if (left >= EVEN) line<EVEN, WIDE>(l), o += EVEN;
            else line<1, WIDE>(l), o++;
        }
    }
    const int origin = result.rows ? -LANES : tile.origin;
    for (int c = 0; c < outputs; c++) {  // the padding of the next layer
        float* pixels = row + (long)c * result.pitch;
        if (from == 0) std::fill(pixels + origin, pixels, 0.f);
        if (end == tile.image.w) std::fill(pixels + end, pixels + origin + result.pitch, 0.f);
    }
}

static void emit_row(const Tile& tile, const Value& value, int y) {
    const float* row = tile.row(value, y);
    const Region& region = tile.image.region;
    float* feat = tile.image.feat + (long)(y - region.top) * (region.right - region.left) * value.channels;
    for (int x = tile.left; x < tile.right; x++)
        for (int c = 0; c < value.channels; c++)
            feat[(long)(x - region.left) * value.channels + c] = row[(long)c * value.pitch + x];
}

static void run_tile(const Tile& tile, const Step* steps, const Stage& stage, std::vector<const float*>& taps) {
    for (int front = tile.top - 2 * stage.reach; front < tile.bottom; front++)
        for (const Step* s = steps + stage.first; s < steps + stage.end; s++) {
            const int y = front + s->reach;
            if (y < std::max(tile.top - s->reach, 0) || y >= std::min(tile.bottom + s->reach, tile.image.h)) continue;
            const int from = std::max(tile.left - s->reach, 0), end = std::min(tile.right + s->reach, tile.image.w);
            if (s->groups) convolve_row(tile, *s, y, from, end, taps);
            else emit_row(tile, tile.image.values[s->in[0]], y);
        }
}

extern "C" void convolve(
    const Value* values, const Step* steps, const Stage* stages, int count, const float* zeros, float* feat, int h, int w,
    int floats, int threads
) {
    const Image image{values, zeros, feat, stages[count - 1].region, h, w};
    std::vector<std::atomic<int>> next(count);
    for (auto& tile : next) tile = 0;
    std::atomic<int> arrived{0};
    auto work = [&] {
        std::vector<float> memory(floats);
        std::vector<const float*> taps;
        for (int i = 0; i < count; i++) {
            const Stage& stage = stages[i];
            const Region& r = stage.region;
            const int across = (r.right - r.left + stage.width - 1) / stage.width;
            const int down = (r.bottom - r.top + stage.height - 1) / stage.height;
            for (int task; (task = next[i]++) < across * down;) {
                const int top = r.top + task / across * stage.height, left = r.left + task % across * stage.width;
                const int bottom = std::min(top + stage.height, r.bottom), right = std::min(left + stage.width, r.right);
                run_tile({image, top, left, bottom, right, left - stage.reach - LANES, memory.data()}, steps, stage, taps);
            }
            arrived++;
            while (arrived < threads * (i + 1)) std::this_thread::yield();
        }
    };
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads; i++) helpers.emplace_back(work);
    work();
    for (std::thread& helper : helpers) helper.join();
}
