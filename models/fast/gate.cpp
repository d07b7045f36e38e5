// The gradients of the gate, see gate.h. Built by build.py, called by gate.py.
#include "gate.h"

namespace {
constexpr long STRIP = 1 << 14;  // floats that a thread takes at once, a multiple of LANES
}

// gradients of x and y from that of the result, n floats each; they may lie where `gradient` does
extern "C" void gate_gradients(const float* gradient, const float* x, const float* y, long n, float* of_x, float* of_y, int threads) {
    std::atomic<long> next{0};
    in_parallel((int)std::max(1L, std::min((long)threads, n / STRIP)), [&](int) {
        for (long first; (first = next.fetch_add(STRIP)) < n;)
            for (long i = first; i < std::min(first + STRIP, n); i += LANES) {
                const Part part((int)std::min(n - i, (long)LANES));
                const Vec g = 0.5f * part.load(gradient + i), at = part.load(y + i), weight = weight_of_gate(at);
                const Vec through = g * at * weight;
                const Vec sum = part.load(x + i) + at;
                part.store(of_x + i, through);
                part.store(of_y + i, through + g * sum * weight * weight);
            }
    });
}
