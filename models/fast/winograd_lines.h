// The one-dimensional transforms of winograd.cpp, whose matrices are B, A and G, along a row or a column of a tile:
// of the pixels in and around it (6 -> 6), of its own pixels (4 -> 6), of the result (6 -> 4), of a weight (3 -> 6), of
// its gradient (6 -> 3).
//
// Points 0, +-P, +-Q and infinity; with these, rounding errors are smaller than with 1 and 2.
#pragma once
#include "registers.h"

namespace {
constexpr float P = 0.625f, Q = 1.5f, P2 = P * P, Q2 = Q * Q;
template <class V> using Number = std::decay_t<decltype(V{}[0])>;  // of a vector

template <int S, class V> [[gnu::always_inline]] inline void input_line(const V* x, V* to) {
    constexpr Number<V> P = ::P, Q = ::Q, P2 = ::P2, Q2 = ::Q2, SUM = ::P2 + ::Q2, PRODUCT = ::P2 * ::Q2;
    const V even_p = x[4 * S] - Q2 * x[2 * S], odd_p = x[3 * S] - Q2 * x[S];
    const V even_q = x[4 * S] - P2 * x[2 * S], odd_q = x[3 * S] - P2 * x[S];
    to[0] = x[4 * S] - SUM * x[2 * S] + PRODUCT * x[0];
    to[S] = even_p + P * odd_p, to[2 * S] = even_p - P * odd_p;
    to[3 * S] = even_q + Q * odd_q, to[4 * S] = even_q - Q * odd_q;
    to[5 * S] = x[5 * S] - SUM * x[3 * S] + PRODUCT * x[S];
}

template <int S> [[gnu::always_inline]] inline void own_line(const Vec* y, Vec* to) {
    const Vec even_p = y[0] + P2 * y[2 * S], odd_p = y[S] + P2 * y[3 * S];
    const Vec even_q = y[0] + Q2 * y[2 * S], odd_q = y[S] + Q2 * y[3 * S];
    to[5 * S] = y[3 * S], to[0] = y[0];
    to[S] = even_p + P * odd_p, to[2 * S] = even_p - P * odd_p;
    to[3 * S] = even_q + Q * odd_q, to[4 * S] = even_q - Q * odd_q;
}

template <int S, class V> [[gnu::always_inline]] inline void result_line(const V* m, V* to) {
    constexpr Number<V> P = ::P, Q = ::Q, P2 = ::P2, Q2 = ::Q2;
    const V sum_p = m[S] + m[2 * S], odd_p = P * (m[S] - m[2 * S]);
    const V sum_q = m[3 * S] + m[4 * S], odd_q = Q * (m[3 * S] - m[4 * S]);
    to[0] = m[0] + sum_p + sum_q;
    to[S] = odd_p + odd_q;
    to[2 * S] = P2 * sum_p + Q2 * sum_q;
    to[3 * S] = P2 * odd_p + Q2 * odd_q + m[5 * S];
}

constexpr float G0 = 1 / (P2 * Q2), GP = 1 / (2 * P2 * (P2 - Q2)), GQ = 1 / (2 * Q2 * (Q2 - P2));

inline void weight_line(const Vec* w, int from, Vec* to, int step) {
    const Vec even_p = w[0] + P2 * w[2 * from], odd_p = P * w[from];
    const Vec even_q = w[0] + Q2 * w[2 * from], odd_q = Q * w[from];
    to[0] = G0 * w[0];
    to[step] = GP * (even_p + odd_p), to[2 * step] = GP * (even_p - odd_p);
    to[3 * step] = GQ * (even_q + odd_q), to[4 * step] = GQ * (even_q - odd_q);
    to[5 * step] = w[2 * from];
}

inline void weight_gradient_line(const Vec* u, int from, Vec* to, int step) {
    const Vec sum_p = GP * (u[from] + u[2 * from]), odd_p = GP * (u[from] - u[2 * from]);
    const Vec sum_q = GQ * (u[3 * from] + u[4 * from]), odd_q = GQ * (u[3 * from] - u[4 * from]);
    to[0] = G0 * u[0] + sum_p + sum_q;
    to[step] = P * odd_p + Q * odd_q;
    to[2 * step] = P2 * sum_p + Q2 * sum_q + u[5 * from];
}
}  // namespace
