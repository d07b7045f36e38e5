// Convolutions of some tiles in the domain of Winograd's algorithm, see winograd.cpp: the weights, and the products.
#pragma once
#include "winograd_tiles.h"

namespace {
// ---- matrix products, one per point
template <int VECTORS, class N> void products(Strip<N> in, Strip<N> out, const N* weight, int depth, long tiles, bool more) {
    constexpr int ROWS = rows_for<N>(VECTORS);
    for (int p = 0; p < POINTS; p++, weight += padded<N>(depth) * VECTORS * lanes<N>)
        for (long t = 0; t < tiles; t += ROWS)
            (more ? block<ROWS, VECTORS, true, N> : block<ROWS, VECTORS, false, N>)(in.data + p * in.plane + t * in.pitch, in.pitch, weight, depth, out.data + p * out.plane + t * out.pitch, out.pitch);
}

template <class N> void products(const Chunk& c, Strip<N> in, Strip<N> out, const N* weight, long tiles, bool more) {
    with_vectors<N>(c.vectors, [&](auto vectors) { products<vectors>(in, out, weight, c.ins, tiles, more); });
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
                const float* at = w.at(from, into, own_ins, own_outs);
                for (int k = 0; k < 9; k++) in[w.turned ? 8 - k : k][lane] = at[k / 3 * w.row + k % 3 * w.col];
            }
            for (int k = 0; k < 3; k++) weight_line(in + k, 3, half + k, 3);          // (6,3)
            for (int k = 0; k < 6; k++) weight_line(half + 3 * k, 1, out + 6 * k, 1);  // (6,6)
            for (int p = 0; p < POINTS; p++) store_as(to + p * plane + (long)i * width + v, out[p]);
        }
}

// ---- convolutions
template <class N> struct Layout {  // of a convolution's channels and weights
    int own_ins, own_outs;      // of a group
    int groups, ins, outs;      // of a group in which several may have been joined
    long weights, in_pitch, out_pitch;
    std::vector<Chunk> chunks;

    Layout(int groups, int ins, int outs) : own_ins(ins), own_outs(outs), groups(groups), ins(ins), outs(outs) {
        if (sizeof(N) == 2)  // narrow groups share a vector, as transforms then take half as long and products no longer
            while (this->groups % 2 == 0 && 2 * std::max(this->ins, this->outs) <= lanes<N>) this->groups /= 2, this->ins *= 2, this->outs *= 2;
        chunks = chunks_of<N>(this->groups, this->ins, this->outs, weights);
        in_pitch = padded<N>(std::min(CHUNK, this->ins)), out_pitch = padded<N>(std::min(most<N> * lanes<N>, this->outs));
    }
    long in_size(long tiles) const { return padded<N>(POINTS * plane_of<N>(tiles, in_pitch)); }
    long size(long tiles) const { return in_size(tiles) + padded<N>(POINTS * plane_of<N>(tiles, out_pitch)); }  // of both transforms
    Strip<N> in(N* at, long tiles) const { return {at, in_pitch, plane_of<N>(tiles, in_pitch)}; }
    Strip<N> out(N* at, long tiles) const { return {at + in_size(tiles), out_pitch, plane_of<N>(tiles, out_pitch)}; }
    void transform_weights(const Weights& w, N* to) const {
        for (const Chunk& c : chunks) ::transform_weights(w, c, own_ins, own_outs, to + c.weights);
    }
};

// y of the tiles [first, last), at most `tiles`, for which `memory` has room
template <class N>
void convolve(const Layout<N>& l, const Region& region, long first, long last, const View<const N>& x, const N* weights, N* memory, long tiles, const Epilogue<N>& epilogue, const View<N>& y) {
    const Strip<N> in = l.in(memory, tiles), out = l.out(memory, tiles);
    int ready = -1;  // the input channels that are transformed
    for (const Chunk& c : l.chunks) {
        if (ready != c.in) transform<6, N>(region, x, c.in, c.ins, first, last, in, nullptr);
        ready = c.in;
        products(c, in, out, weights + c.weights, last - first, c.in % l.ins);
        if ((c.in + c.ins) % l.ins == 0) finish(region, out, c.outs, first, last, epilogue, c.out, y);
    }
}
}  // namespace
