// Linear layers over rows of channels, and their gradients: 1x1 convolutions and the per-pixel MLPs of training. Built by
// build.py, called by linear.py. A row (n, c) per pixel; weights are float32.
//
//   result = rectified(sum_i input_i weight_i' + bias + add), in which the weights of several inputs lie side by side, as
//   if the inputs were concatenated. Rows are worked in strips that stay in a core's own cache.
#include "linear_rows.h"

namespace {
constexpr int STRIP = 48;  // rows, a multiple of UNIT

// totals[c] += sum of column c of a strip, squares likewise; taken around the strip's mean, then in double, because what
// counts are differences of large sums
void add_columns(const float* rows, int count, int columns, double* totals, double* squares) {
    for (int c = 0; c < columns; c += LANES) {
        const Part part(columns - c);
        Vec sum{}, square{};
        for (int r = 0; r < count; r++) sum += part.load(rows + r * columns + c);
        const Vec mean = sum / (float)count;
        for (int r = 0; r < count; r++) {
            const Vec v = part.load(rows + r * columns + c) - mean;
            square += v * v;
        }
        for (int i = 0; i < std::min(LANES, columns - c); i++) {
            const double m = mean[i];
            totals[c + i] += count * m, squares[c + i] += square[i] + count * m * m;
        }
    }
}

// every thread gets the same strips in every run: sums must not depend on which thread is the faster
template <class Work> void over_strips(long rows, int threads, const Work& work) {
    const long strips = (rows + STRIP - 1) / STRIP;
    in_parallel(threads, [&](int thread) {
        for (long strip = thread * strips / threads; strip < (thread + 1) * strips / threads; strip++)
            work(thread, strip * STRIP, (int)std::min((long)STRIP, rows - strip * STRIP));
    });
}

int threads_for(long rows, int threads) { return (int)std::max(1L, std::min((long)threads, rows / (4 * STRIP))); }

template <class N>
void layer(const Sources<N>& sources, long rows, int outs, Matrix w, const Ending<N>& ending, N* y, double* sums, int threads) {
    threads = threads_for(rows, threads);
    const Linear<N> linear(sources.count * sources.ins, outs);
    N* weight = workspace<N>(linear.weights());
    linear.pack(w, weight);
    std::vector<double> parts(sums ? (size_t)threads * 2 * outs : 0);
    over_strips(rows, threads, [&](int thread, long first, int count) {
        const long at = first * outs;
        linear.run(from_row(sources, first), count, weight, {ending.bias, ending.add ? ending.add + at : nullptr, ending.slope}, y + at);
        if constexpr (std::is_same_v<N, float>)
            if (sums) add_columns(y + at, count, outs, &parts[thread * 2 * outs], &parts[(thread * 2 + 1) * outs]);
    });
    if (sums)
        for (int i = 0; i < 2 * outs; i++) {
            sums[i] = 0;
            for (int t = 0; t < threads; t++) sums[i] += parts[t * 2 * outs + i];
        }
}
}  // namespace

// y (rows, outs). sums: null, or the columns' sums and sums of squares (2, outs)
extern "C" void linear(Sources<float> sources, long rows, int outs, Matrix w, const float* bias, const float* add, float slope, float* y, double* sums, int threads) {
    layer(sources, rows, outs, w, {bias, add, slope}, y, sums, threads);
}

#ifdef __AVX512FP16__
// as above; there are no sums
extern "C" void linear_half(Sources<Half> sources, long rows, int outs, Matrix w, const Half* bias, const Half* add, float slope, Half* y, double*, int threads) {
    layer(sources, rows, outs, w, {bias, add, (Half)slope}, y, nullptr, threads);
}
#endif

struct Incoming {  // the result's gradient g (rows, outs), as it is after these
    float* g;
    const float* mask;      // null, or g counts where this is above zero, and is left so in memory
    const float *z, *affine;  // null, or then g = affine[0] * g + affine[1] * z + affine[2], per column: BatchNorm's gradient
};

// rectified: the inputs are results of a rectifier, whose derivative their gradients take
extern "C" void linear_gradients(Sources<float> sources, int rectified, long rows, int outs, Matrix w, Incoming in, Matrix of_w, float* of_bias, int threads) {
    threads = threads_for(rows, threads);
    const int ins = sources.ins, count = sources.count;
    const auto columns = columns_of(outs), back = columns_of(ins);
    const long pitch = padded(outs), back_pitch = padded(ins), packed = outs * back_pitch, sums = ins * pitch;
    const long own = count * sums + pitch + STRIP * (pitch + back_pitch);
    float* memory = workspace(count * packed + threads * own);
    float* threads_memory = memory + count * packed;
    for (int i = 0; i < count; i++)
        if (sources.gradient[i]) pack(w.data + i * ins * w.in, w.out, w.in, outs, back, memory + i * packed);
    for (int t = 0; t < threads; t++) std::fill_n(threads_memory + t * own, count * sums + pitch, 0.f);
    over_strips(rows, threads, [&](int thread, long first, int height) {
        float* of_weight = threads_memory + thread * own;
        float *bias = of_weight + count * sums, *g = bias + pitch, *back_rows = g + STRIP * pitch;
        for (int c = 0; c < outs; c += LANES) {
            const Part part(outs - c);
            const Vec scale = in.affine ? part.load(in.affine + c) : all(1.f), slope = in.affine ? part.load(in.affine + outs + c) : Vec{};
            const Vec shift = in.affine ? part.load(in.affine + 2 * outs + c) : Vec{};
            Vec sum{};
            for (int r = 0; r < height; r++) {
                const long at = (first + r) * outs + c;
                Vec value = part.load(in.g + at);
                if (in.mask) part.store(in.g + at, value = part.load(in.mask + at) > 0 ? value : Vec{});
                if (in.affine) value = scale * value + slope * part.load(in.z + at) + shift;
                sum += value;
                store(g + r * pitch + c, value);
            }
            store(bias + c, load(bias + c) + sum);
        }
        for (int i = 0; i < count; i++) {
            const float* x = sources.x[i] + first * ins;
            accumulate(x, ins, ins, g, pitch, columns, height, of_weight + i * sums);
            if (!sources.gradient[i]) continue;
            multiply(g, pitch, memory + i * packed, outs, back, back_rows, back_pitch, height, false);
            float* to = sources.gradient[i] + first * ins;
            for (int c = 0; c < ins; c += LANES) {
                const Part part(ins - c);
                for (int r = 0; r < height; r++) {
                    Vec value = load(back_rows + r * back_pitch + c);
                    if (rectified) value = part.load(x + r * ins + c) > 0 ? value : Vec{};
                    if (sources.more[i]) value += part.load(to + r * ins + c);
                    part.store(to + r * ins + c, value);
                }
            }
        }
    });
    for (int t = 1; t < threads; t++)
        for (long i = 0; i < count * sums + pitch; i++) threads_memory[i] += threads_memory[t * own + i];
    for (int i = 0; i < count; i++) {
        const float* from = threads_memory + i * sums;
        for (const Columns& c : columns)
            for (int k = 0; k < ins; k++, from += c.vectors * LANES)
                for (int o = 0; o < c.count; o++) of_w.data[(c.first + o) * of_w.out + (i * ins + k) * of_w.in] = from[o];
    }
    if (of_bias) std::copy_n(threads_memory + count * sums, outs, of_bias);
}

// y = rectified(scale * x + shift), per column
extern "C" void scale_and_rectify(const float* x, long rows, int columns, const float* scale, const float* shift, float* y, int threads) {
    over_strips(rows, threads_for(rows, threads), [&](int, long first, int count) {
        for (int c = 0; c < columns; c += LANES) {
            const Part part(columns - c);
            const Vec by = part.load(scale + c), plus = part.load(shift + c);
            for (int r = 0; r < count; r++) {
                const long at = (first + r) * columns + c;
                part.store(y + at, relu(by * part.load(x + at) + plus));
            }
        }
    });
}

// to = g where y is above zero, else 0; sums (2, columns): of that, and of that times z - center
extern "C" void rectifier_sums(const float* g, const float* y, const float* z, const float* center, long rows, int columns, float* to, double* sums, int threads) {
    threads = threads_for(rows, threads);
    std::vector<double> parts((size_t)threads * 2 * columns);
    over_strips(rows, threads, [&](int thread, long first, int count) {
        double* own = &parts[thread * 2 * columns];
        for (int c = 0; c < columns; c += LANES) {
            const int left = std::min(LANES, columns - c);
            const Part part(left);
            const Vec middle = part.load(center + c);
            Vec sum{}, product{};
            for (int r = 0; r < count; r++) {
                const long at = (first + r) * columns + c;
                const Vec value = part.load(y + at) > 0 ? part.load(g + at) : Vec{};
                part.store(to + at, value);
                sum += value, product += value * (part.load(z + at) - middle);
            }
            for (int i = 0; i < left; i++) own[c + i] += sum[i], own[columns + c + i] += product[i];
        }
    });
    for (int i = 0; i < 2 * columns; i++) {
        sums[i] = 0;
        for (int t = 0; t < threads; t++) sums[i] += parts[t * 2 * columns + i];
    }
}
