// 3x3 convolutions of stride 1 and padding 1, and their gradients, in the domain of Winograd's F(4x4, 3x3): 4 times fewer
// multiplications. Built by build.py, called by winograd.py. Pixels lie row after row, channels last; weights are float32.
//
//   A tile is 4x4 pixels of the result and the 6x6 of the input that they depend on. With the matrices B, G and A of winograd_lines.h
//     result = A' [ sum_c (G weight_c G') * (B' input_c B) ] A
//   in which * is a product at each of 36 points; the sum over channels makes of it a matrix product per point, tiles by
//   channels. The gradient of the input is the same convolution with weights turned round; that of the weights is
//     G' [ sum_tiles (B' input B) * (A gradient A') ] G.
//   Tiles are worked in strips whose transforms stay in a core's own cache, channels in chunks of at most CHUNK.
#include "winograd_tiles.h"

namespace {
constexpr long CACHE_BYTES = 600'000;  // of a strip's two transforms

// ---- matrix products, one per point
template <int VECTORS, class N> void products(Strip<N> in, Strip<N> out, const N* weight, int depth, long tiles, bool more) {
    constexpr int ROWS = rows_for<N>(VECTORS);
    for (int p = 0; p < POINTS; p++, weight += padded<N>(depth) * VECTORS * lanes<N>)
        for (long t = 0; t < tiles; t += ROWS)
            (more ? block<ROWS, VECTORS, true, N> : block<ROWS, VECTORS, false, N>)(in.data + p * in.plane + t * in.pitch, in.pitch, weight, depth, out.data + p * out.plane + t * out.pitch, out.pitch);
}

template <int VECTORS> void outer_products(Strip<float> in, Strip<float> gradient, float* sums, int depth, long tiles) {
    constexpr int ROWS = LANES == 16 ? (VECTORS == 1 ? 13 : UNIT / VECTORS) : 4, ODD = 2;
    for (int p = 0; p < POINTS; p++, sums += padded(depth) * VECTORS * LANES) {
        const float *x = in.data + p * in.plane, *g = gradient.data + p * gradient.plane;
        int i = 0;
        for (; i + ROWS <= depth; i += ROWS) outer_block<ROWS, VECTORS>(x + i, in.pitch, g, gradient.pitch, tiles, sums + i * VECTORS * LANES);
        for (; i < depth; i += ODD) outer_block<ODD, VECTORS>(x + i, in.pitch, g, gradient.pitch, tiles, sums + i * VECTORS * LANES);
    }
}

// ---- weights: to[point][i][o] of a chunk
// own_ins and own_outs are a group's channels; between channels of two groups that share a chunk the weight is zero
template <class N> void transform_weights(const Weights& w, const Chunk& c, int own_ins, int own_outs, N* to) {
    const int width = c.vectors * lanes<N>;
    const long plane = padded<N>(c.ins) * width;
    for (int i = 0; i < c.ins; i++)
        for (int v = 0; v < width; v += LANES) {
            alignas(64) Vec in[9] = {}, half[18], out[36];
            for (int lane = 0; lane < std::min(LANES, c.outs - v); lane++) {
                const long from = c.in + i, into = c.out + v + lane;
                if (from / own_ins != into / own_outs) continue;
                // inputs count from their group's start, outputs through all groups; of a turned weight the other way
                const long input = w.turned ? from : from % own_ins, output = w.turned ? into % own_outs : into;
                const float* at = w.data + (w.turned ? input * w.out + output * w.in : output * w.out + input * w.in);
                for (int k = 0; k < 9; k++) in[w.turned ? 8 - k : k][lane] = at[k / 3 * w.row + k % 3 * w.col];
            }
            for (int k = 0; k < 3; k++) weight_line(in + k, 3, half + k, 3);          // (6,3)
            for (int k = 0; k < 6; k++) weight_line(half + 3 * k, 1, out + 6 * k, 1);  // (6,6)
            for (int p = 0; p < POINTS; p++) store_as(to + p * plane + (long)i * width + v, out[p]);
        }
}

void weight_gradients(const float* const* parts, int count, const Weights& w, const Chunk& c, int group_ins) {
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
            for (int lane = 0; lane < std::min(LANES, c.outs - v); lane++)
                for (int k = 0; k < 9; k++)
                    w.data[(c.out + v + lane) * w.out + (c.in + i) % group_ins * w.in + k / 3 * w.row + k % 3 * w.col] = out[k][lane];
        }
}

template <class N> struct Plan {
    std::vector<Chunk> chunks;
    long weights, tiles, strips;  // numbers of all chunks' weights, tiles of a strip, how many strips
    long in_pitch, out_pitch, in_size, out_size;

    Plan(const Image& image, int groups, int ins, int outs) {
        chunks = chunks_of<N>(groups, ins, outs, weights);
        in_pitch = padded<N>(std::min(CHUNK, ins)), out_pitch = padded<N>(std::min(most<N> * lanes<N>, outs));
        const long room = CACHE_BYTES / sizeof(N), tile = POINTS * (in_pitch + out_pitch) + 16 * groups * (ins + outs);
        const long all = image.tiles();
        tiles = std::max((long)UNIT, std::min(room / tile, all + UNIT - 1) / UNIT * UNIT);
        strips = (all + tiles - 1) / tiles;
        in_size = padded<N>(POINTS * plane_of<N>(tiles, in_pitch)), out_size = padded<N>(POINTS * plane_of<N>(tiles, out_pitch));
    }
    Strip<N> in(N* at) const { return {at, in_pitch, plane_of<N>(tiles, in_pitch)}; }
    Strip<N> out(N* at) const { return {at + in_size, out_pitch, plane_of<N>(tiles, out_pitch)}; }
};

template <class N>
void convolution(const N* x, Image image, int groups, int ins, int outs, Weights weights, Epilogue<N> epilogue, N* y, int threads) {
    const int own_ins = ins, own_outs = outs;
    if (sizeof(N) == 2)  // narrow groups share a vector, as transforms then take half as long and products no longer
        while (groups % 2 == 0 && 2 * std::max(ins, outs) <= lanes<N>) groups /= 2, ins *= 2, outs *= 2;
    const Plan<N> plan(image, groups, ins, outs);
    threads = (int)std::max(1L, std::min((long)threads, plan.strips));
    const long own = plan.in_size + plan.out_size;
    N* memory = workspace<N>(plan.weights + threads * own);
    for (const Chunk& c : plan.chunks) transform_weights(weights, c, own_ins, own_outs, memory + c.weights);
    std::atomic<long> next{0};
    in_parallel(threads, [&](int thread) {
        N* mine = memory + plan.weights + thread * own;
        const Strip<N> in = plan.in(mine), out = plan.out(mine);
        for (long strip; (strip = next++) < plan.strips;) {
            const long first = strip * plan.tiles, last = std::min(first + plan.tiles, image.tiles());
            int ready = -1;  // the input channels that are transformed
            for (const Chunk& c : plan.chunks) {
                if (ready != c.in) transform<6, N>(image, x, groups * ins, c.in, c.ins, first, last, in, nullptr);
                ready = c.in;
                const bool more = c.in % ins;
                const N* u = memory + c.weights;
                switch (c.vectors) {
                    case 1: products<1>(in, out, u, c.ins, last - first, more); break;
                    case 2: products<std::min(2, most<N>)>(in, out, u, c.ins, last - first, more); break;
                    case 3: products<std::min(3, most<N>)>(in, out, u, c.ins, last - first, more); break;
                    default: products<most<N>>(in, out, u, c.ins, last - first, more);
                }
                if ((c.in + c.ins) % ins == 0)
                    finish(image, out, c.outs, first, last, epilogue, groups * outs, c.out, y);
            }
        }
    });
}
}  // namespace

// ins and outs are of a group; x (batch,h,w,groups*ins), y (batch,h,w,groups*outs)
extern "C" void winograd(const float* x, Image image, int groups, int ins, int outs, Weights weights, Epilogue<float> epilogue, float* y, int threads) {
    convolution(x, image, groups, ins, outs, weights, epilogue, y, threads);
}

#ifdef __AVX512FP16__
extern "C" void winograd_half(const Half* x, Image image, int groups, int ins, int outs, Weights weights, Epilogue<Half> epilogue, Half* y, int threads) {
    convolution(x, image, groups, ins, outs, weights, epilogue, y, threads);
}
#endif

// the weights' gradient, and the bias' (groups*outs), if there is one, from that of the result
extern "C" void winograd_weights(const float* x, const float* gradient, Image image, int groups, int ins, int outs, Weights weights, float* bias, int threads) {
    const Plan<float> plan(image, groups, ins, outs);
    threads = (int)std::max(1L, std::min((long)threads, plan.strips));
    const long biases = padded((long)groups * outs) + LANES, own = plan.weights + biases + plan.in_size + plan.out_size;
    float* memory = workspace(threads * own);
    in_parallel(threads, [&](int thread) {
        float *sums = memory + thread * own, *bias_sums = sums + plan.weights;
        std::fill(sums, bias_sums + biases, 0.f);
        const Strip<float> in = plan.in(bias_sums + biases), out = plan.out(bias_sums + biases);
        // strips are divided beforehand: sums must not depend on which thread is the faster
        for (long strip = thread * plan.strips / threads; strip < (thread + 1) * plan.strips / threads; strip++) {
            const long first = strip * plan.tiles, last = std::min(first + plan.tiles, image.tiles());
            int ready = -1;
            for (const Chunk& c : plan.chunks) {
                if (ready != c.in) transform<6, float>(image, x, groups * ins, c.in, c.ins, first, last, in, nullptr);
                ready = c.in;
                if (c.in % ins == 0) {
                    Vec totals[MOST] = {};
                    transform<4, float>(image, gradient, groups * outs, c.out, c.outs, first, last, out, totals);
                    for (int o = 0; o < c.outs; o++) bias_sums[c.out + o] += totals[o / LANES][o % LANES];
                }
                float* u = sums + c.weights;
                switch (c.vectors) {
                    case 1: outer_products<1>(in, out, u, c.ins, last - first); break;
                    case 2: outer_products<2>(in, out, u, c.ins, last - first); break;
                    case 3: outer_products<std::min(3, MOST)>(in, out, u, c.ins, last - first); break;
                    default: outer_products<MOST>(in, out, u, c.ins, last - first);
                }
            }
        }
    });
    std::vector<const float*> parts;
    for (int i = 0; i < threads; i++) parts.push_back(memory + i * own);
    for (const Chunk& c : plan.chunks) weight_gradients(parts.data(), threads, weights, c, ins);
    if (bias)
        for (int o = 0; o < groups * outs; o++) {
            bias[o] = 0;
            for (const float* part : parts) bias[o] += part[plan.weights + o];
        }
}
