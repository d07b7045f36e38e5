// One MLP at the HR pixels that chose it. Built by build.py, called by pixels.py.
//
//   table       (h, C0, pitch)  first layer's feature part and bias: a line per LR row and channel
//   coordinate  (4, C0)         what the first layer makes of offset and cell: (y, x) of either
//   weight                      for each later layer (Cin, Cout), then its bias (Cout)
//
//   The pixels of an HR row that chose this MLP are packed into vectors, a pixel per lane, and those into blocks of
//   VECTORS, which may come from several rows; a block's activations stay in the cache:
//     in[c][p]  = relu(table[nearest(p)][c] + row[y][c] + col[x][c])
//     out[o][p] = relu(bias[o] + sum_c in[c][p] * weight[c][o])     up to TILE outputs of a block at once in registers
//   What the last layer gives is added to the planes (n, H, W) of the output, which are float32.
//
//   Numbers beyond the range of float16 become infinite or no numbers, and stay so up to the results: such pixels are
//   not added but marked, for the caller to compute them in float32.
#include "mlp_layers.h"

namespace {
// room for whole blocks; and 32 more, because lines a power of two apart would compete for the same places in the cache
inline long pitch_of(int w) { return (w + 63) / 64 * 64 + 32; }

struct Features {  // (h, w, channels) anywhere in memory
    const void* data;
    long row, col, channel;
    int h, w, channels;
};

// the first layer's feature part, into a table of `outs` channels; 0 if not all of it is finite
template <class N> int table_of(const Features& f, const Spread<N>* weight, const Spread<N>* bias, int outs, N* table, int threads) {
    const Layer<N> layer{f.channels, outs, weight, bias, false};
    const long pitch = pitch_of(f.w);
    std::atomic<int> all_finite{1};
    each_row(f.h, threads, [&](std::atomic<int>& next) {
        N* in = workspace<N>(f.channels * BLOCK<N>);
        std::fill_n(in, f.channels * BLOCK<N>, (N)0);
        for (int y; (y = next++) < f.h;)
            for (int x = 0; x < f.w; x += BLOCK<N>) {
                const int count = std::min(BLOCK<N>, f.w - x);
                const N* from = (const N*)f.data + y * f.row + x * f.col;
                for (int p = 0; p < count; p++)
                    for (int c = 0; c < f.channels; c++) in[c * BLOCK<N> + p] = from[p * f.col + c * f.channel];
                N* out = table + (long)y * outs * pitch + x;
                run(layer, in, out, pitch);
                if constexpr (sizeof(N) == 2) {
                    VecOf<N> zero{};
                    for (int c = 0; c < outs; c++)
                        for (int v = 0; v < BLOCK<N>; v += lanes<N>) zero += load(out + c * pitch + v) * (N)0;
                    if (!finite(zero, lanes<N>)) all_finite = 0;
                }
            }
    });
    return all_finite;
}

struct Axis {  // per HR row or column: the LR one it reads, and where it lies in that; and its own extent
    const int64_t* index;
    const float* offset;
    float cell;
};

struct Planes {  // (n, height, width)
    float* data;
    int height, width;
};

struct Choice {  // of (height, width), those that have `own`; null: all. In float16, `unfinished` marks those not computed
    const uint8_t* assignment;
    int own;
    uint8_t* unfinished;
};

template <class N> struct Pixels {  // of a row, and the pixels behind the last one repeat it
    std::vector<int> x, nearest;
    std::vector<N> offset;
    int count = 0;
    explicit Pixels(int width) : x(width + lanes<N>), nearest(width + lanes<N>), offset(width + lanes<N>) {}
    void close() {
        for (int i = count; count && i < count + lanes<N>; i++) x[i] = x[count - 1], nearest[i] = nearest[count - 1], offset[i] = offset[count - 1];
    }
    void choose(const Pixels& from, const uint8_t* assignment, int own) {
        int *to_x = x.data(), *to_nearest = nearest.data(), n = 0;
        N* to_offset = offset.data();
        for (int i = 0; i < from.count; i++) {
            to_x[n] = i, to_nearest[n] = from.nearest[i], to_offset[n] = from.offset[i];
            n += assignment[i] == own;
        }
        count = n;
        close();
    }
};

struct Lot {  // the pixels of a vector
    int y, count, x[64];
};

template <class N> struct Mlp {
    const N* table;
    long pitch;
    Axis rows, cols;
    Choice choice;
    Planes planes;
    int first, last, widest;  // channels
    const float* coordinate;
    std::vector<Layer<N>> layers{};
    std::vector<Spread<N>> across{};  // per channel, what is times a pixel's offset

    // widths: outputs of the first layer, then of the `depth` later ones
    void build(const Spread<N>* weight, const int* widths, int depth) {
        for (int i = 0; i < depth; i++) {
            const int in = widths[i], out = widths[i + 1];
            layers.push_back({in, out, weight, weight + (long)in * out, i + 1 < depth});
            weight += (long)(in + 1) * out;
        }
        for (int c = 0; c < first; c++) across.push_back(spreadable(coordinate[first + c], N{}));
    }

    Pixels<N> whole_row() const {
        Pixels<N> pixels(planes.width);
        for (int x = 0; x < planes.width; x++)
            pixels.x[x] = x, pixels.nearest[x] = (int)cols.index[x], pixels.offset[x] = cols.offset[x];
        pixels.count = planes.width;
        pixels.close();
        return pixels;
    }

    // what the first layer makes of a row and of the cells
    void lower(int y, std::vector<Spread<N>>& down) const {
        const float *of_row = coordinate, *of_cells = coordinate + 2 * first;
        for (int c = 0; c < first; c++) {
            const float cells = of_cells[c] * rows.cell + of_cells[first + c] * cols.cell;
            down[c] = spreadable(of_row[c] * rows.offset[y] + cells, N{});
        }
    }

    // the first layer, of as many pixels from number `i` on as a vector takes: to (first, BLOCK)
    void fill(Lot& lot, int y, const Pixels<N>& pixels, int i, const std::vector<Spread<N>>& down, N* to) const {
        constexpr int L = lanes<N>;
        const int leftmost = pixels.nearest[i];
        lot.y = y, lot.count = std::min(L, pixels.count - i);
        while (pixels.nearest[i + lot.count - 1] - leftmost >= 2 * L) lot.count--;
        std::copy_n(&pixels.x[i], L, lot.x);
        const bool far = pixels.nearest[i + lot.count - 1] - leftmost >= L;
        alignas(BYTES) Place<N> places[L];
        for (int lane = 0; lane < L; lane++) places[lane] = (Place<N>)std::min(pixels.nearest[i + lane] - leftmost, 2 * L - 1);
        const PlacesOf<N> at = *(const PlacesOf<N>*)places;
        const VecOf<N> offset = load(&pixels.offset[i]);
        const N* line = table + rows.index[y] * first * pitch + leftmost;
        for (int c = 0; c < first; c++, line += pitch, to += BLOCK<N>) {
            const VecOf<N> sum = pick(line, at, far) + (offset * spread(&across[c]) + spread(&down[c]));
            store(to, layers.empty() ? sum : relu(sum));
        }
    }

    // the last layer's results (last, BLOCK) of a vector to the planes; the number of pixels that are not finite
    int add(const Lot& lot, const N* from) const {
        const long row = (long)lot.y * planes.width;
        const bool together = lot.x[lot.count - 1] - lot.x[0] == lot.count - 1;
        if constexpr (sizeof(N) == 2) {
            VecOf<N> zero{};
            for (int o = 0; o < last; o++) zero += load(from + o * BLOCK<N>) * (N)0;
            if (!finite(zero, lot.count)) {
                for (int i = 0; i < lot.count; i++) choice.unfinished[row + lot.x[i]] = 1;
                return lot.count;
            }
        }
        for (int o = 0; o < last; o++, from += BLOCK<N>) {
            float* to = planes.data + (long)o * planes.height * planes.width + row;
            for (int i = 0; i < lot.count; i += LANES) {
                const int remaining = std::min(LANES, lot.count - i);
                const Vec value = load_as_float(from + i);
                if (together) {
                    const Part part(remaining);
                    part.store(to + lot.x[i], part.load(to + lot.x[i]) + value);
                } else {
                    float values[LANES];
                    store(values, value);
                    for (int j = 0; j < remaining; j++) to[lot.x[i + j]] += values[j];
                }
            }
        }
        return 0;
    }

    int run_all(int threads) const {
        const Pixels<N> all_pixels = whole_row();
        std::atomic<int> unfinished{0};
        each_row(planes.height, threads, [&](std::atomic<int>& next) {
            N *one = workspace<N>(2 * widest * BLOCK<N>), *two = one + widest * BLOCK<N>;
            Pixels<N> chosen(planes.width);
            std::vector<Spread<N>> down(first);
            Lot lots[VECTORS];
            int filled = 0;
            const auto finish = [&] {
                N *in = one, *out = two;
                for (const Layer<N>& layer : layers) run(layer, in, out, BLOCK<N>), std::swap(in, out);
                for (int v = 0; v < filled; v++) unfinished += add(lots[v], in + v * lanes<N>);
                filled = 0;
            };
            for (int y; (y = next++) < planes.height;) {
                if (choice.assignment) chosen.choose(all_pixels, choice.assignment + (long)y * planes.width, choice.own);
                const Pixels<N>& pixels = choice.assignment ? chosen : all_pixels;
                lower(y, down);
                for (int i = 0; i < pixels.count;) {
                    fill(lots[filled], y, pixels, i, down, one + filled * lanes<N>);
                    i += lots[filled++].count;
                    if (filled == VECTORS) finish();
                }
            }
            finish();
        });
        return unfinished;
    }
};

template <class N>
int mlp(const N* table, int w, const float* coordinate, const Spread<N>* weight, const int* widths, int depth, Axis rows, Axis cols, Choice choice, Planes planes, int threads) {
    const int widest = *std::max_element(widths, widths + depth + 1);
    Mlp<N> made{table, pitch_of(w), rows, cols, choice, planes, widths[0], widths[depth], widest, coordinate};
    made.build(weight, widths, depth);
    return made.run_all(threads);
}
}  // namespace

extern "C" int table_pitch(int w) { return (int)pitch_of(w); }

extern "C" int project(Features features, const float* weight, const float* bias, int outs, float* table, int threads) {
    return table_of<float>(features, weight, bias, outs, table, threads);
}

extern "C" int mlp_at(const float* table, int w, const float* coordinate, const float* weight, const int* widths, int depth, Axis rows, Axis cols, Choice choice, Planes planes, int threads) {
    return mlp<float>(table, w, coordinate, weight, widths, depth, rows, cols, choice, planes, threads);
}

#ifdef __AVX512FP16__
extern "C" int project_half(Features features, const uint32_t* weight, const uint32_t* bias, int outs, Half* table, int threads) {
    return table_of<Half>(features, weight, bias, outs, table, threads);
}

extern "C" int mlp_at_half(const Half* table, int w, const float* coordinate, const uint32_t* weight, const int* widths, int depth, Axis rows, Axis cols, Choice choice, Planes planes, int threads) {
    return mlp<Half>(table, w, coordinate, weight, widths, depth, rows, cols, choice, planes, threads);
}
#endif
