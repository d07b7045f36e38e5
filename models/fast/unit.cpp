// A residual unit of CARN and the fusion behind it, for inference. Built by build.py, called by unit.py.
//
//   one = relu(3x3 of x),  two = relu(3x3 of one),  u = relu(1x1 of two + x),  out = relu(1x1 of what was seen so far and u)
//
//   Layer by layer, all of this would go to the memory and back. So an image is worked in panels of PANEL tiles across, and
//   those in groups of a few rows of tiles: `one` and `two` of a group never leave the core's own cache, and u is still in
//   there when `out` needs it. `one` is computed a tile further on each side; of the group before, its last rows are kept.
//   The tiles are those of winograd.cpp, and so are the results, to the bit.
#include "linear_rows.h"
#include "winograd_products.h"

namespace {
constexpr int PANEL = 24, TILES = 120;  // tiles across, tiles that are transformed at once: all of a group
template <class N> constexpr int DEEP = 8 / sizeof(N);  // rows of tiles of a group

template <class N> struct Spatial {
    Weights weights;
    const N* bias;
};

template <class N> struct Pointwise {
    Matrix weights;
    const N* bias;
};

template <class N> struct Unit {
    const N* x;
    Image image;
    int groups;
    Spatial<N> first, second;
    Pointwise<N> third, fusion;
    Sources<N> seen;
    N *u, *out;  // u: null, or a place for it
};

template <class N> struct Panel {  // what a thread works with
    const Unit<N>& unit;
    const Layout<N>& layout;
    const Linear<N>&third, &fusion;
    const N* weights;  // of first, second, third, fusion
    N *transforms, *u;  // a line, where the unit has no place for u
    View<N> one, two;

    void convolve(const Region& region, const View<const N>& x, const N* weights, const N* bias, const View<N>& y) const {
        for (long first = 0; first < region.tiles(); first += TILES)
            ::convolve(layout, region, first, std::min(first + TILES, region.tiles()), x, weights, transforms, TILES, {bias, nullptr, nullptr, 0, nullptr, nullptr}, y);
    }

    // rows of tiles [top, bottom) and columns [left, right) of an image
    void run(int number, int top, int left, int bottom, int right) {
        const Image& image = unit.image;
        const int width = unit.seen.ins, down = image.down();
        const N *weights2 = weights + layout.weights, *weights3 = weights2 + layout.weights, *weights4 = weights3 + third.weights();
        one.left = 4 * (left - 1), two.left = 4 * left;
        for (int row = top; row < bottom; row += DEEP<N>) {
            const int end = std::min(bottom, row + DEEP<N>), from = row > top ? row + 1 : std::max(0, row - 1);
            one.top = 4 * (row - 1), two.top = 4 * row;
            if (row > top) std::copy_n(one.data + 4 * DEEP<N> * one.line, 8 * one.line, one.data);
            const Region further(image, number, from, std::max(0, left - 1), std::min(down, end + 1), std::min(image.across(), right + 1));
            convolve(further, View<const N>(image, unit.x, width), weights, unit.first.bias, one);
            convolve(Region(image, number, row, left, end, right), seen_from(one), weights2, unit.second.bias, two);
            const int count = std::min(4 * right, image.w) - 4 * left;
            for (int y = 4 * row; y < std::min(4 * end, image.h); y++) {
                const long at = ((long)number * image.h + y) * image.w + 4 * left;
                Sources<N> inner{};
                inner.x[0] = two.at({number, y, 4 * left}), inner.count = 1, inner.ins = width;
                N* of_unit = unit.u ? unit.u + at * width : u;
                third.run(inner, count, weights3, {unit.third.bias, unit.x + at * width, 0}, of_unit);
                Sources<N> seen = from_row(unit.seen, at);
                seen.x[seen.count++] = of_unit;
                fusion.run(seen, count, weights4, {unit.fusion.bias, nullptr, 0}, unit.out + at * width);
            }
        }
    }

   private:
    static View<const N> seen_from(const View<N>& v) { return {v.data, (int)(v.line / v.channels), v.channels, v.top, v.left}; }
};

template <class N> void run(const Unit<N>& unit, int threads) {
    const Image& image = unit.image;
    const int width = unit.seen.ins, down = image.down(), panels = (image.across() + PANEL - 1) / PANEL;
    const int height = std::max(DEEP<N>, (int)((long)image.batch * panels * down / (4 * threads))), pieces = (down + height - 1) / height;
    const Layout<N> layout(unit.groups, width / unit.groups, width / unit.groups);
    const Linear<N> third(width, width), fusion((unit.seen.count + 1) * width, width);
    const long numbers = 2 * layout.weights + third.weights() + fusion.weights(), transforms = layout.size(TILES);
    const long one = padded<N>(16L * (PANEL + 2) * (DEEP<N> + 2) * width), two = padded<N>(16L * PANEL * DEEP<N> * width);
    const long line = padded<N>(4L * PANEL * width), own = transforms + one + two + line;
    N *memory = workspace<N>(numbers + threads * own), *to = memory;
    layout.transform_weights(unit.first.weights, to), to += layout.weights;
    layout.transform_weights(unit.second.weights, to), to += layout.weights;
    third.pack(unit.third.weights, to), to += third.weights();
    fusion.pack(unit.fusion.weights, to);
    std::atomic<int> next{0};
    in_parallel(std::min(threads, image.batch * panels * pieces), [&](int thread) {
        N *mine = memory + numbers + thread * own, *of_first = mine + transforms, *of_second = of_first + one, *of_unit = of_second + two;
        const View<N> first(of_first, 4 * (PANEL + 2), width, 0, 0), second(of_second, 4 * PANEL, width, 0, 0);
        Panel<N> panel{unit, layout, third, fusion, memory, mine, of_unit, first, second};
        for (int i; (i = next++) < image.batch * panels * pieces;) {
            const int top = i / panels % pieces * height, left = i % panels * PANEL;
            panel.run(i / (panels * pieces), top, left, std::min(down, top + height), std::min(image.across(), left + PANEL));
        }
    });
}
}  // namespace

extern "C" void unit(Unit<float> unit, int threads) { run(unit, threads); }

#ifdef __AVX512FP16__
extern "C" void unit_half(Unit<Half> unit, int threads) { run(unit, threads); }
#endif
