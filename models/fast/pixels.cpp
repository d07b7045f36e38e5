// What is done at every HR pixel before and after the MLPs: the bilinear residual, refinement and rounding. Built by
// build.py, called by pixels.py.
#include <cmath>
#include <cstdint>

#include "registers.h"

// lr planes of (h, w) at (height, width); per axis, two LR positions and the weight of the second.
extern "C" void bilinear(
    const float* lr, int planes, int h, int w, const int64_t* row_low, const int64_t* row_high, const float* row_weight,
    const int64_t* col_low, const int64_t* col_high, const float* col_weight, int height, int width, float* out, int threads
) {
    each_row(height, threads, [&](std::atomic<int>& next) {
        std::vector<float> line(w);
        for (int y; (y = next++) < height;)
            for (int p = 0; p < planes; p++) {
                const float *top = lr + ((long)p * h + row_low[y]) * w, *bottom = lr + ((long)p * h + row_high[y]) * w;
                for (int x = (int)col_low[0]; x <= col_high[width - 1]; x++)
                    line[x] = top[x] + row_weight[y] * (bottom[x] - top[x]);
                float* row = out + ((long)p * height + y) * width;
                for (int x = 0; x < width; x++) {
                    const float left = line[col_low[x]];
                    row[x] = left + col_weight[x] * (line[col_high[x]] - left);
                }
            }
    });
}

struct Lines {  // memory for a row
    std::vector<uint8_t> heaviest, has_heavier;  // the heaviest of three, one above another; whether a neighbour is heavier
    std::vector<float> columns, line;
    explicit Lines(int width) : heaviest(width), has_heavier(width), columns(width), line(width) {}
};

// A row of sr, whose planes lie `plane` numbers apart, and its pixels [left, right) in `out`. The numbers are passed by
// value: a byte that is written might otherwise be part of them, and the loops would not be vectorized.
template <typename Level>
static void round_row(const float* sr, long plane, const uint8_t* assignment, int width, int left, int right, int levels, Lines& memory, Level* out) {
    uint8_t *has_heavier = memory.has_heavier.data(), *heaviest = memory.heaviest.data();
    float *columns = memory.columns.data(), *line = memory.line.data();
    if (assignment) {
        const uint8_t *above = assignment - width, *below = assignment + width;
        for (int x = 0; x < width; x++) heaviest[x] = std::max(above[x], std::max(assignment[x], below[x]));
        for (int x = 1; x < width - 1; x++)
            has_heavier[x] = std::max(heaviest[x - 1], std::max(heaviest[x], heaviest[x + 1])) > assignment[x];
    }
    for (int c = 0; c < 3; c++) {
        const float *row = sr + c * plane, *shown = row;
        if (assignment) {
            for (int x = 0; x < width; x++) columns[x] = row[x - width] + row[x] + row[x + width];
            line[0] = row[0], line[width - 1] = row[width - 1];
            for (int x = 1; x < width - 1; x++) {
                const float mean = (columns[x - 1] + columns[x] + columns[x + 1]) / 9;
                line[x] = has_heavier[x] ? mean : row[x];
            }
            shown = line;
        }
        for (int x = left; x < right; x++) {
            const float clamped = shown[x] > 0 ? std::min(shown[x], 1.f) : 0.f;
            out[3 * (x - left) + c] = (Level)(int)std::nearbyint(clamped * levels);
        }
    }
}

// A pixel that has a heavier one among its eight neighbours takes the mean of the nine, but not at the image's border;
// clamped to [0,1] and rounded. sr (3, height, width), assignment (height, width) or null; out: (row, column, colour).
template <typename Level>
static void round_rows(
    const float* sr, const uint8_t* assignment, int height, int width, int top, int bottom, int left, int right,
    int levels, Level* out, long stride, int threads
) {
    each_row(bottom - top, threads, [&](std::atomic<int>& next) {
        Lines memory(width);
        for (int i; (i = next++) < bottom - top;) {
            const int y = top + i;
            const long row = (long)y * width;
            const bool refined = assignment && y > 0 && y < height - 1 && width > 2;
            round_row(sr + row, (long)height * width, refined ? assignment + row : nullptr, width, left, right, levels, memory, out + i * stride);
        }
    });
}

extern "C" void refine_and_round(
    const float* sr, const uint8_t* assignment, int height, int width, int top, int bottom, int left, int right,
    int levels, void* out, long stride, int threads
) {
    auto run = [&](auto* to) {
        round_rows(sr, assignment, height, width, top, bottom, left, right, levels, to, stride, threads);
    };
    if (levels == 255) run((uint8_t*)out);
    else run((uint16_t*)out);
}
