// What winograd.cpp is asked for, and the transforms of whole strips of tiles there and back.
#pragma once
#include "gate.h"
#include "winograd_lines.h"

namespace {
constexpr int CHUNK = 64;                // input channels
constexpr int POINTS = 36;

// ---- what is asked for
struct Image {  // (batch, h, w, channels), channels last
    int batch, h, w;
    int across() const { return (w + 3) / 4; }
    int down() const { return (h + 3) / 4; }
    long tiles() const { return (long)batch * across() * down(); }
};

struct Weights {  // w[o][i][r][s] of a group's inputs i and all outputs o, anywhere in memory
    float* data;
    long out, in, row, col;
    int turned;  // inputs and outputs change places, and the kernel is turned round: the gradient's convolution

    // of channels that count through all groups, of which a group has own_ins and own_outs
    float* at(long from, long into, int own_ins, int own_outs) const {
        return data + (turned ? from * out + into % own_outs * in : into * out + from % own_ins * in);
    }
};

// result = activation(convolution + bias + add), or the same times the activation's slope at `mask`
template <class N> struct Epilogue {
    const N *bias, *add, *mask;
    float slope;    // of what is below zero; 1: no activation
    const N* gate;  // not null: the result is gated(gate, convolution + bias), and `kept` gets convolution + bias
    N* kept;        // or null
};

struct Chunk {  // input channels [in, in + ins), output channels [out, out + outs) and their weights
    int in, ins, out, outs;
    long weights;
    int vectors;
};

// chunks of the same outputs follow one another
template <class N> std::vector<Chunk> chunks_of(int groups, int ins, int outs, long& numbers) {
    constexpr int L = lanes<N>, WIDEST = most<N> * L;
    std::vector<Chunk> chunks;
    numbers = 0;
    for (int g = 0; g < groups; g++)
        for (int o = 0; o < outs; o += WIDEST)
            for (int i = 0; i < ins; i += CHUNK) {
                const int own = std::min(WIDEST, outs - o), vectors = (own + L - 1) / L;
                Chunk c{g * ins + i, std::min(CHUNK, ins - i), g * outs + o, own, numbers, vectors};
                numbers += POINTS * padded<N>(c.ins) * vectors * L;
                chunks.push_back(c);
            }
    return chunks;
}

// ---- transforms of whole strips: to[point][tile][channel], rows of `pitch` numbers, points `plane` numbers apart
template <class N> struct Strip {
    N* data;
    long pitch, plane;
};

template <class N> long plane_of(long tiles, long pitch) { return tiles * pitch + lanes<N>; }  // no power of two: the cache's sets

struct Place {
    int image, top, left;
};

inline Place place(const Image& image, long tile) {
    const int across = image.across(), down = image.down();
    return {(int)(tile / (across * down)), (int)(tile / across % down) * 4, (int)(tile % across) * 4};
}

// SIZE 6: the 6x6 pixels around each tile; SIZE 4: its own. `sums` gets the sums over the tiles' own pixels, if not null
template <int SIZE, class N>
void transform(const Image& image, const N* x, int channels, int from, int count, long first, long last, Strip<N> to, VecOf<N>* sums) {
    typedef VecOf<N> V;
    constexpr int EDGE = SIZE == 6 ? 1 : 0, L = lanes<N>;
    const long line = (long)image.w * channels;
    for (long tile = first; tile < last; tile++) {
        const Place at = place(image, tile);
        const int top = at.top - EDGE, left = at.left - EDGE;
        const N* corner = x + ((long)at.image * image.h + top) * line + (long)left * channels + from;
        const bool whole = top >= 0 && left >= 0 && top + SIZE <= image.h && left + SIZE <= image.w;
        N* row = to.data + (tile - first) * to.pitch;
        for (int c = 0; c < count; c += L) {
            alignas(64) V half[36];
            const PartOf<N> part(count - c);
            V sum{};
            for (int i = 0; i < SIZE; i++) {  // column by column
                V in[SIZE], to_half[6];
#pragma GCC unroll 6
                for (int r = 0; r < SIZE; r++) {
                    const N* pixel = corner + r * line + i * channels + c;
                    const int z = left + i;
                    if (whole) in[r] = part.load(pixel), __builtin_prefetch(pixel + SIZE * channels);
                    else in[r] = top + r >= 0 && top + r < image.h && z >= 0 && z < image.w ? part.load(pixel) : V{};
                    if (r >= EDGE && r < EDGE + 4 && i >= EDGE && i < EDGE + 4) sum += in[r];
                }
                if constexpr (SIZE == 6) input_line<1>(in, to_half);
                else gradient_line<1>(in, to_half);
                for (int r = 0; r < 6; r++) half[r * 6 + i] = to_half[r];
            }
            if (sums) sums[c / L] += sum;
            for (int r = 0; r < 6; r++) {
                V out[6];
                if constexpr (SIZE == 6) input_line<1>(half + 6 * r, out);
                else gradient_line<1>(half + 6 * r, out);
                for (int i = 0; i < 6; i++) store(row + (r * 6 + i) * to.plane + c, out[i]);
            }
        }
    }
}

template <bool INSIDE, class N>
inline void finish_tile(const VecOf<N>* out, const Image& image, const Place& at, const Epilogue<N>& e, int channels, int channel, int count, N* y) {
    typedef VecOf<N> V;
    const PartOf<N> part(count);
    const V bias = e.bias ? part.load(e.bias + channel) : V{};
    const N slope = e.slope;
    for (int r = 0; r < 4; r++) {
        if (!INSIDE && at.top + r >= image.h) break;
        long pixel = (((long)at.image * image.h + at.top + r) * image.w + at.left) * channels + channel;
        for (int c = 0; c < 4; c++, pixel += channels) {
            if (!INSIDE && at.left + c >= image.w) break;
            V value = out[r * 4 + c] + bias;
            if (e.add) value += part.load(e.add + pixel);
            if (e.kept) part.store(e.kept + pixel, value);
            if (e.gate) value = gated(part.load(e.gate + pixel), value);
            else if (e.mask) value = part.load(e.mask + pixel) > 0 ? value : value * slope;
            else if (slope != 1) value = value > 0 ? value : value * slope;
            part.store(y + pixel, value);
        }
    }
}

template <class N>
void finish(const Image& image, Strip<N> from, int count, long first, long last, const Epilogue<N>& e, int channels, int start, N* y) {
    typedef VecOf<N> V;
    constexpr int L = lanes<N>;
    for (long tile = first; tile < last; tile++) {
        const Place at = place(image, tile);
        const N* row = from.data + (tile - first) * from.pitch;
        for (int c = 0; c < count; c += L) {
            alignas(64) V half[24], out[16];
            for (int i = 0; i < 6; i++) {
                V in[6], to_half[4];
                for (int r = 0; r < 6; r++) in[r] = load(row + (r * 6 + i) * from.plane + c);
                result_line<1>(in, to_half);
                for (int r = 0; r < 4; r++) half[r * 6 + i] = to_half[r];
            }
            for (int i = 0; i < 4; i++) result_line<1>(half + 6 * i, out + 4 * i);
            if (at.top + 4 <= image.h && at.left + 4 <= image.w) finish_tile<true>(out, image, at, e, channels, start + c, count - c, y);
            else finish_tile<false>(out, image, at, e, channels, start + c, count - c, y);
        }
    }
}
}  // namespace
