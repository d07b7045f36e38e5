// Products of rows of channels with matrices that are packed for the registers: of linear.cpp and pixel_errors.cpp.
#pragma once
#include "registers.h"

namespace {
struct Columns {  // output columns [first, first + count) in `vectors`
    int first, count, vectors;
};

template <class N = float> std::vector<Columns> columns_of(int count) {
    constexpr int L = lanes<N>;
    const int vectors = (count + L - 1) / L, chunks = (vectors + most<N> - 1) / most<N>;
    std::vector<Columns> columns;
    for (int i = 0; i < chunks; i++) {
        const int from = i * vectors / chunks, to = (i + 1) * vectors / chunks;
        columns.push_back({from * L, std::min(count, to * L) - from * L, to - from});
    }
    return columns;
}

// [chunk of columns][row][column in the chunk], where an entry is data[row * down + column * right]
template <class N> void pack(const float* data, long down, long right, int rows, const std::vector<Columns>& columns, N* to) {
    for (const Columns& c : columns)
        for (int r = 0; r < rows; r++, to += c.vectors * lanes<N>)
            for (int i = 0; i < c.vectors * lanes<N>; i++) to[i] = i < c.count ? data[r * down + (c.first + i) * right] : 0;
}

template <int VECTORS, class N>
void product(const N* in, long in_pitch, const N* weight, int depth, N* out, long out_pitch, int rows, bool more) {
    constexpr int ROWS = rows_for<N>(VECTORS);
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        (more ? block<ROWS, VECTORS, true, N> : block<ROWS, VECTORS, false, N>)(in + r * in_pitch, in_pitch, weight, depth, out + r * out_pitch, out_pitch);
    for (; r < rows; r++)
        (more ? block<1, VECTORS, true, N> : block<1, VECTORS, false, N>)(in + r * in_pitch, in_pitch, weight, depth, out + r * out_pitch, out_pitch);
}

// out (rows, columns) (+)= in (rows, depth) * packed weights
template <class N>
void multiply(const N* in, long in_pitch, const N* weight, int depth, const std::vector<Columns>& columns, N* out, long out_pitch, int rows, bool more) {
    for (const Columns& c : columns) {
        N* to = out + c.first;
        with_vectors<N>(c.vectors, [&](auto vectors) { product<vectors>(in, in_pitch, weight, depth, to, out_pitch, rows, more); });
        weight += (long)depth * c.vectors * lanes<N>;
    }
}

template <int VECTORS> void outer_product(const float* in, long in_pitch, int depth, const float* gradient, long pitch, int rows, float* sums) {
    constexpr int ROWS = LANES == 16 ? UNIT / VECTORS / (VECTORS == 1 ? 2 : 1) : 4;
    int i = 0;
    for (; i + ROWS <= depth; i += ROWS) outer_block<ROWS, VECTORS>(in + i, in_pitch, gradient, pitch, rows, sums + i * VECTORS * LANES);
    for (; i + 2 <= depth; i += 2) outer_block<2, VECTORS>(in + i, in_pitch, gradient, pitch, rows, sums + i * VECTORS * LANES);
    for (; i < depth; i++) outer_block<1, VECTORS>(in + i, in_pitch, gradient, pitch, rows, sums + i * VECTORS * LANES);
}

// sums (depth, columns), packed, += in' (rows, depth) * gradient (rows, columns)
void accumulate(const float* in, long in_pitch, int depth, const float* gradient, long pitch, const std::vector<Columns>& columns, int rows, float* sums) {
    for (const Columns& c : columns) {
        const float* g = gradient + c.first;
        with_vectors<float>(c.vectors, [&](auto vectors) { outer_product<vectors>(in, in_pitch, depth, g, pitch, rows, sums); });
        sums += (long)depth * c.vectors * LANES;
    }
}
}  // namespace
