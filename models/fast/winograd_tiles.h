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

template <class N> long plane_of(long tiles, long pitch) { return tiles * pitch + lanes<N>; }  // see pitch_of in mlp.cpp

struct Place {
    int image, top, left;
};

struct Region {  // tiles [top, top + down) x [left, left + across) of the images from `number` on, counted row by row
    Image image;
    int number, top, left, down, across;
    explicit Region(const Image& all) : image(all), number(0), top(0), left(0), down(all.down()), across(all.across()) {}
    Region(const Image& all, int number, int top, int left, int bottom, int right)
        : image(all), number(number), top(top), left(left), down(bottom - top), across(right - left) {}
    long tiles() const { return (long)down * across; }  // of an image
    Place place(long tile) const {
        return {number + (int)(tile / (across * down)), (top + (int)(tile / across % down)) * 4, (left + (int)(tile % across)) * 4};
    }
};

template <class N> struct View {  // pixels of images, of which those above `top` and left of `left` are not in memory
    N* data;
    long picture, line;  // numbers of an image, of a line
    int channels, top, left;
    View(const Image& image, N* data, int channels)
        : data(data), picture((long)image.h * image.w * channels), line((long)image.w * channels), channels(channels), top(0), left(0) {}
    View(N* data, int width, int channels, int top, int left)
        : data(data), picture(0), line((long)width * channels), channels(channels), top(top), left(left) {}
    N* at(const Place& p) const { return data + p.image * picture + (p.top - top) * line + (long)(p.left - left) * channels; }
};

// SIZE 6: the 6x6 pixels around each tile; SIZE 4: its own. `sums` gets the sums over the tiles' own pixels, if not null
template <int SIZE, class N>
void transform(const Region& region, const View<const N>& x, int from, int count, long first, long last, Strip<N> to, VecOf<N>* sums) {
    typedef VecOf<N> V;
    constexpr int EDGE = SIZE == 6 ? 1 : 0, L = lanes<N>;
    const long line = x.line;
    const int channels = x.channels;
    const Image& image = region.image;
    for (long tile = first; tile < last; tile++) {
        const Place at = region.place(tile);
        const int top = at.top - EDGE, left = at.left - EDGE;
        const N* corner = x.at({at.image, top, left}) + from;
        const bool whole = top >= 0 && left >= 0 && top + SIZE <= image.h && left + SIZE <= image.w;
        N* row = to.data + (tile - first) * to.pitch;
        for (int c = 0; c < count; c += L) {
            alignas(64) V half[36];
            const PartOf<N> part(count - c);
            V sum{};
            for (int i = 0; i < SIZE; i++) {  // column by column
                alignas(64) V in[SIZE], to_half[6];
#pragma GCC unroll 6
                for (int r = 0; r < SIZE; r++) {
                    const N* pixel = corner + r * line + i * channels + c;
                    const int z = left + i;
                    if (whole) in[r] = part.load(pixel), __builtin_prefetch(pixel + SIZE * channels);
                    else in[r] = top + r >= 0 && top + r < image.h && z >= 0 && z < image.w ? part.load(pixel) : V{};
                    if (r >= EDGE && r < EDGE + 4 && i >= EDGE && i < EDGE + 4) sum += in[r];
                }
                if constexpr (SIZE == 6) input_line<1>(in, to_half);
                else own_line<1>(in, to_half);
                for (int r = 0; r < 6; r++) half[r * 6 + i] = to_half[r];
            }
            if (sums) sums[c / L] += sum;
            for (int r = 0; r < 6; r++) {
                alignas(64) V out[6];
                if constexpr (SIZE == 6) input_line<1>(half + 6 * r, out);
                else own_line<1>(half + 6 * r, out);
                for (int i = 0; i < 6; i++) store(row + (r * 6 + i) * to.plane + c, out[i]);
            }
        }
    }
}

template <bool INSIDE, class N>
inline void finish_tile(const VecOf<N>* out, const Image& image, const Place& at, const Epilogue<N>& e, int channel, int count, const View<N>& y) {
    typedef VecOf<N> V;
    const int channels = y.channels;
    const PartOf<N> part(count);
    const V bias = e.bias ? part.load(e.bias + channel) : V{};
    const N slope = e.slope;
    for (int r = 0; r < 4; r++) {
        if (!INSIDE && at.top + r >= image.h) break;
        long pixel = (((long)at.image * image.h + at.top + r) * image.w + at.left) * channels + channel;
        N* to = y.at({at.image, at.top + r, at.left}) + channel;
        for (int c = 0; c < 4; c++, pixel += channels, to += channels) {
            if (!INSIDE && at.left + c >= image.w) break;
            V value = out[r * 4 + c] + bias;
            if (e.add) value += part.load(e.add + pixel);
            if (e.kept) part.store(e.kept + pixel, value);
            if (e.gate) value = gated(part.load(e.gate + pixel), value);
            else if (e.mask) value = part.load(e.mask + pixel) > 0 ? value : value * slope;
            else if (slope != 1) value = value > 0 ? value : value * slope;
            part.store(to, value);
        }
    }
}

template <class N>
void finish(const Region& region, Strip<N> from, int count, long first, long last, const Epilogue<N>& e, int start, const View<N>& y) {
    typedef VecOf<N> V;
    constexpr int L = lanes<N>;
    const Image& image = region.image;
    for (long tile = first; tile < last; tile++) {
        const Place at = region.place(tile);
        const N* row = from.data + (tile - first) * from.pitch;
        for (int c = 0; c < count; c += L) {
            alignas(64) V half[24], out[16];
            for (int i = 0; i < 6; i++) {
                alignas(64) V in[6], to_half[4];
                for (int r = 0; r < 6; r++) in[r] = load(row + (r * 6 + i) * from.plane + c);
                result_line<1>(in, to_half);
                for (int r = 0; r < 4; r++) half[r * 6 + i] = to_half[r];
            }
            for (int i = 0; i < 4; i++) result_line<1>(half + 6 * i, out + 4 * i);
            if (at.top + 4 <= image.h && at.left + 4 <= image.w) finish_tile<true>(out, image, at, e, start + c, count - c, y);
            else finish_tile<false>(out, image, at, e, start + c, count - c, y);
        }
    }
}
}  // namespace
