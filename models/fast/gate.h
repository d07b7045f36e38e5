// The gate of models/softgate.py and its derivatives: half of (x + y) * s with s = y / (1 + |y|), the softsign of y.
#pragma once
#include "registers.h"

namespace {
inline Vec reciprocal(Vec v) {  // to the last digits of float32
#ifdef __AVX512F__
    const Vec guess = (Vec)_mm512_rcp14_ps((__m512)v);
    return guess * (2.f - v * guess);
#else
    return 1.f / v;
#endif
}

inline Vec weight_of_gate(Vec y) { return reciprocal(1.f + (y > 0 ? y : -y)); }

inline Vec gated(Vec x, Vec y) { return 0.5f * (x + y) * y * weight_of_gate(y); }
}  // namespace
