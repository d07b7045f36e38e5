// 3x3 convolutions of stride 1 and padding 1, and their gradients, in the domain of Winograd's F(4x4, 3x3): 4 times fewer
// multiplications. Built by build.py, called by winograd.py. Pixels lie row after row, channels last; weights are float32.
//
//   A tile is 4x4 pixels of the result and the 6x6 of the input that they depend on. With the matrices B, G and A of winograd_lines.h
//     result = A' [ sum_c (G weight_c G') * (B' input_c B) ] A
//   in which * is a product at each of 36 points; the sum over channels makes of it a matrix product per point, tiles by
//   channels. The gradient of the input is the same convolution of the result's gradient with weights turned round; that of
//   the weights, turned round too, needs the same transform of it:
//     G' [ sum_tiles (B' gradient B) * (A input A') ] G.
//   Tiles are worked in strips whose transforms stay in a core's own cache, channels in chunks of at most CHUNK.
#include "winograd_products.h"

namespace {
constexpr long CACHE_BYTES = 600'000;  // of a strip's two transforms

template <int VECTORS> void outer_products(Strip<float> in, Strip<float> other, float* sums, int depth, long tiles) {
    constexpr int ROWS = LANES == 16 ? (VECTORS == 1 ? 13 : UNIT / VECTORS) : 4, FEW = 4, ODD = 2;
    for (int p = 0; p < POINTS; p++, sums += padded(depth) * VECTORS * LANES) {
        const float *x = in.data + p * in.plane, *y = other.data + p * other.plane;
        int i = 0;
        for (; i + ROWS <= depth; i += ROWS) outer_block<ROWS, VECTORS>(x + i, in.pitch, y, other.pitch, tiles, sums + i * VECTORS * LANES);
        for (; i + FEW <= depth; i += FEW) outer_block<FEW, VECTORS>(x + i, in.pitch, y, other.pitch, tiles, sums + i * VECTORS * LANES);
        for (; i + ODD <= depth; i += ODD) outer_block<ODD, VECTORS>(x + i, in.pitch, y, other.pitch, tiles, sums + i * VECTORS * LANES);
        for (; i < depth; i++) outer_block<1, VECTORS>(x + i, in.pitch, y, other.pitch, tiles, sums + i * VECTORS * LANES);
    }
}

void outer_products(const Chunk& c, Strip<float> in, Strip<float> other, float* sums, long tiles) {
    with_vectors<float>(c.vectors, [&](auto vectors) { outer_products<vectors>(in, other, sums, c.ins, tiles); });
}

// ---- gradients of weights, from sums that lie as the weights do in transform_weights
void weight_gradients(const float* const* parts, int count, const Weights& w, const Chunk& c, int own_ins, int own_outs) {
    const int width = c.vectors * LANES;
    const long plane = padded(c.ins) * width;
    for (int i = 0; i < c.ins; i++)
        for (int v = 0; v < width; v += LANES) {
            alignas(64) Vec in[36], half[18], out[9];
            for (int p = 0; p < POINTS; p++) {
                const long at = c.weights + p * plane + (long)i * width + v;
                in[p] = load(parts[0] + at);
                for (int n = 1; n < count; n++) in[p] += load(parts[n] + at);
            }
            for (int k = 0; k < 6; k++) weight_gradient_line(in + k, 6, half + k, 6);         // (3,6)
            for (int k = 0; k < 3; k++) weight_gradient_line(half + 6 * k, 1, out + 3 * k, 1);  // (3,3)
            for (int lane = 0; lane < std::min(LANES, c.outs - v); lane++) {
                float* at = w.at(c.in + i, c.out + v + lane, own_ins, own_outs);
                for (int k = 0; k < 9; k++) at[k / 3 * w.row + k % 3 * w.col] = out[w.turned ? 8 - k : k][lane];
            }
        }
}

struct Plan {  // of how an image is cut into strips
    long tiles, strips;  // tiles of a strip, how many strips
    template <class N> Plan(const Image& image, const Layout<N>& l) {
        const long room = CACHE_BYTES / sizeof(N), tile = POINTS * (l.in_pitch + l.out_pitch) + 16 * l.groups * (l.ins + l.outs);
        const long all = image.tiles();
        tiles = std::max((long)UNIT, std::min(room / tile, all + UNIT - 1) / UNIT * UNIT);
        strips = (all + tiles - 1) / tiles;
    }
};

template <class N>
void convolution(const N* x, const Image& image, const Layout<N>& layout, const Weights& weights, const Epilogue<N>& epilogue, N* y, int threads) {
    const Plan plan(image, layout);
    const Region all(image);
    const View<const N> from(image, x, layout.groups * layout.ins);
    const View<N> to(image, y, layout.groups * layout.outs);
    threads = (int)std::max(1L, std::min((long)threads, plan.strips));
    const long own = layout.size(plan.tiles);
    N* memory = workspace<N>(layout.weights + threads * own);
    layout.transform_weights(weights, memory);
    std::atomic<long> next{0};
    in_parallel(threads, [&](int thread) {
        N* mine = memory + layout.weights + thread * own;
        for (long strip; (strip = next++) < plan.strips;) {
            const long first = strip * plan.tiles, last = std::min(first + plan.tiles, image.tiles());
            convolve(layout, all, first, last, from, memory, mine, plan.tiles, epilogue, to);
        }
    });
}
}  // namespace

// ins and outs are of a group; x (batch,h,w,groups*ins), y (batch,h,w,groups*outs)
extern "C" void winograd(const float* x, Image image, int groups, int ins, int outs, Weights weights, Epilogue<float> epilogue, float* y, int threads) {
    convolution(x, image, Layout<float>(groups, ins, outs), weights, epilogue, y, threads);
}

#ifdef __AVX512FP16__
extern "C" void winograd_half(const Half* x, Image image, int groups, int ins, int outs, Weights weights, Epilogue<Half> epilogue, Half* y, int threads) {
    convolution(x, image, Layout<Half>(groups, ins, outs), weights, epilogue, y, threads);
}
#endif

// From the result's gradient those of x, of the weights and of the bias (groups*outs); the epilogue is that of x's, which
// may be null, as may be the bias'.
extern "C" void winograd_gradients(
    const float* x, const float* gradient, Image image, int groups, int ins, int outs, Weights weights, Epilogue<float> epilogue,
    float* of_x, Weights of_weights, float* of_bias, int threads
) {
    const Layout<float> layout(groups, outs, ins);  // from the result's channels to those of x
    const Plan plan(image, layout);
    const Region all(image);
    const View<const float> of_result(image, gradient, groups * outs), input(image, x, groups * ins);
    const View<float> to(image, of_x, groups * ins);
    threads = (int)std::max(1L, std::min((long)threads, plan.strips));
    const long biases = padded((long)groups * outs) + LANES, size = layout.size(plan.tiles), own = layout.weights + biases + 2 * size - layout.in_size(plan.tiles);
    float *memory = workspace(layout.weights + threads * own), *threads_memory = memory + layout.weights;
    if (of_x) layout.transform_weights(weights, memory);
    in_parallel(threads, [&](int thread) {
        float *sums = threads_memory + thread * own, *bias_sums = sums + layout.weights;
        std::fill(sums, bias_sums + biases, 0.f);
        const Strip<float> in = layout.in(bias_sums + biases, plan.tiles), out = layout.out(bias_sums + biases, plan.tiles);
        const Strip<float> of_tiles = {in.data + size, out.pitch, out.plane};  // x
        // strips are divided beforehand: sums must not depend on which thread is the faster
        for (long strip = thread * plan.strips / threads; strip < (thread + 1) * plan.strips / threads; strip++) {
            const long first = strip * plan.tiles, last = std::min(first + plan.tiles, image.tiles());
            int ready = -1;
            for (const Chunk& c : layout.chunks) {
                Vec totals[CHUNK / LANES] = {};
                if (ready != c.in) transform<6, float>(all, of_result, c.in, c.ins, first, last, in, totals);
                ready = c.in;
                if (c.out % ins == 0)
                    for (int i = 0; i < c.ins; i++) bias_sums[c.in + i] += totals[i / LANES][i % LANES];
                if (c.in % outs == 0) transform<4, float>(all, input, c.out, c.outs, first, last, of_tiles, nullptr);
                outer_products(c, in, of_tiles, sums + c.weights, last - first);
                if (!of_x) continue;
                products(c, in, out, memory + c.weights, last - first, c.in % outs);
                if ((c.in + c.ins) % outs == 0) finish(all, out, c.outs, first, last, epilogue, c.out, to);
            }
        }
    });
    std::vector<const float*> parts;
    for (int i = 0; i < threads; i++) parts.push_back(threads_memory + i * own);
    for (const Chunk& c : layout.chunks) weight_gradients(parts.data(), threads, of_weights, c, outs, ins);
    if (of_bias)
        for (int o = 0; o < groups * outs; o++) {
            of_bias[o] = 0;
            for (const float* part : parts) of_bias[o] += part[layout.weights + o];
        }
}
