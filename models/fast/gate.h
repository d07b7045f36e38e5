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

#ifdef __AVX512FP16__
inline VecOf<Half> gated(VecOf<Half> x, VecOf<Half> y) {
    const VecOf<Half> size = y > 0 ? y : -y, weight = (VecOf<Half>)_mm512_rcp_ph((__m512h)(size + (Half)1));
    return (x + y) * ((Half)0.5 * y * weight);  // in this order nothing but the result can leave float16's range
}
#endif
}  // namespace
