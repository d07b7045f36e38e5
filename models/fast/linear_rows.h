// Linear layers of some rows of channels: of linear.cpp and unit.cpp.
#pragma once
#include "products.h"

namespace {
struct Matrix {  // weight[o][i]
    float* data;
    long out, in;
};

template <class N> struct Sources {  // inputs (n, ins), places for their gradients (null: not wanted), and whether to add to them
    const N* x[8];
    N* gradient[8];
    int more[8];
    int count, ins;
};

template <class N> Sources<N> from_row(Sources<N> sources, long row) {
    for (int i = 0; i < sources.count; i++) sources.x[i] += row * sources.ins;
    return sources;
}

template <class N> struct Ending {  // result = rectified(sum + bias + add)
    const N *bias, *add;
    N slope;  // of what is below zero; 1: no rectifier
};

// y (rows, outs) of the rows from `row` on, in some columns
template <int ROWS, int VECTORS, class N>
void some_rows(const Sources<N>& from, long row, const N* weight, const Columns& columns, const Ending<N>& ending, int outs, N* y) {
    constexpr int L = lanes<N>;
    VecOf<N> sum[ROWS][VECTORS] = {};
    for (int i = 0; i < from.count; i++, weight += from.ins * VECTORS * L)
        add_rounded(from.x[i] + row * from.ins, from.ins, weight, from.ins, sum);
    EACH (int v = 0; v < VECTORS; v++) {
        const PartOf<N> part(columns.count - v * L);
        const int column = columns.first + v * L;
        const VecOf<N> shift = ending.bias ? part.load(ending.bias + column) : VecOf<N>{};
        EACH (int r = 0; r < ROWS; r++) {
            const long at = (row + r) * outs + column;
            VecOf<N> value = sum[r][v] + shift;
            if (ending.add) value += part.load(ending.add + at);
            if (ending.slope != 1) value = value > 0 ? value : value * ending.slope;
            part.store(y + at, value);
        }
    }
}

template <int VECTORS, class N>
void rows_in(const Columns& columns, const Sources<N>& from, int count, const N* weight, const Ending<N>& ending, int outs, N* y) {
    constexpr int ROWS = rows_for<N>(VECTORS);
    if (count < ROWS)
        for (int r = 0; r < count; r++) some_rows<1, VECTORS>(from, r, weight, columns, ending, outs, y);
    else  // the last ones overlap those before them: faster than row by row
        for (int r = 0; r < count; r += ROWS) some_rows<ROWS, VECTORS>(from, std::min(r, count - ROWS), weight, columns, ending, outs, y);
}

template <class N> struct Linear {  // a layer of `depth` inputs in all, with its weights packed
    int depth, outs;
    std::vector<Columns> columns;
    Linear(int depth, int outs) : depth(depth), outs(outs), columns(columns_of<N>(outs)) {}
    long weights() const { return depth * padded<N>(outs); }
    void pack(const Matrix& w, N* to) const { ::pack(w.data, w.in, w.out, depth, columns, to); }

    // y (count, outs) of the first rows
    void run(const Sources<N>& from, int count, const N* weight, const Ending<N>& ending, N* y) const {
        for (const Columns& c : columns) {
            with_vectors<N>(c.vectors, [&](auto vectors) { rows_in<vectors>(c, from, count, weight, ending, outs, y); });
            weight += depth * c.vectors * lanes<N>;
        }
    }
};
}  // namespace
