// The errors of an upsampler at the HR pixels of a batch, and their gradients, in one pass: the step of training phase 0.
// Built by build.py, called by pixel_errors.py.
//
//   A pixel reads a row of the table, which is what the first layer makes of its LR pixel, and adds that layer's part for
//   its coordinates; the other layers and the error follow, and from there the gradients back to the table. Pixels are
//   worked in strips whose activations stay in a core's own cache and are never written to memory.
#include "products.h"

namespace {
constexpr int STRIP = 48;  // pixels, a multiple of UNIT
constexpr int COORDS = 4, COLORS = 3;
constexpr int ITEMS = 16;  // the images are divided further, until there are about as many: for threads to share

struct PixelInputs {
    const float* table;  // (images,rows,width), a row per LR pixel, `across` of which are a row of the image
    const long* nearest;  // (images,count), rising from one row of the image to the next
    const float *coords, *target;  // (images,count,COORDS), (images,count,COLORS)
    long nearest_step, coords_step;  // numbers from one image to the next
    int images, across;
    long rows, count;
};

struct Parameters {
    int layers;  // behind the first
    const int* widths;  // (layers + 1): of the table, and of every layer's result
    const float *const *weights, *const *biases;  // (out,in) and (out)
    const float* coords;  // (width,COORDS), with rows of `coords_pitch` numbers
    long coords_pitch;
};

struct Errors {
    int absolute;  // or else squared
    double* sums;  // (images)
    float* of_table;  // (images,rows,width)
    float* of_parameters;  // (images,parameters): coords, then weight and bias of every layer
    long parameters;
};

struct Layer {
    int in, out;
    long in_pitch, out_pitch;
    std::vector<Columns> columns, back;  // of the result, of the input
    float *weight, *turned, *bias;  // packed
    long sums;  // offset of the weight's gradient in an item's sums; the bias's gradient follows
};

struct Network {
    std::vector<Layer> layers;
    std::vector<Columns> columns;  // of the table
    float* coords;
    long width, pitch, widest, activations, packed, sums;  // all counted in floats; the last three are sums over the layers

    explicit Network(const Parameters& p) : columns(columns_of(p.widths[0])), width(p.widths[0]), pitch(padded(width)) {
        widest = activations = pitch, packed = sums = COORDS * pitch;
        for (int i = 0; i < p.layers; i++) {
            const int in = p.widths[i], out = p.widths[i + 1];
            Layer l{in, out, padded(in), padded(out), columns_of(out), columns_of(in), nullptr, nullptr, nullptr, sums};
            widest = std::max(widest, l.out_pitch), activations += l.out_pitch;
            packed += in * l.out_pitch + out * l.in_pitch + l.out_pitch, sums += in * l.out_pitch + l.out_pitch;
            layers.push_back(l);
        }
    }

    void pack_into(float* memory, const Parameters& p) {
        pack(p.coords, 1, p.coords_pitch, COORDS, columns, coords = memory);
        memory += COORDS * pitch;
        for (size_t i = 0; i < layers.size(); i++) {
            Layer& l = layers[i];
            l.weight = memory, l.turned = l.weight + l.in * l.out_pitch, l.bias = l.turned + l.out * l.in_pitch;
            pack(p.weights[i], 1, l.in, l.in, l.columns, l.weight);
            pack(p.weights[i], l.in, 1, l.out, l.back, l.turned);
            std::copy_n(p.biases[i], l.out, l.bias);
            std::fill(l.bias + l.out, l.bias + l.out_pitch, 0.f);
            memory = l.bias + l.out_pitch;
        }
    }

    // from an item's sums to the gradients as they lie in memory, which are added to
    void unpack(const float* from, float* to) const {
        unpack(from, COORDS, columns, to), to += width * COORDS;
        for (const Layer& l : layers) {
            unpack(from + l.sums, l.in, l.columns, to), to += (long)l.in * l.out;
            for (int o = 0; o < l.out; o++) *to++ += from[l.sums + l.in * l.out_pitch + o];
        }
    }

    static void unpack(const float* from, int ins, const std::vector<Columns>& columns, float* to) {
        for (const Columns& c : columns)
            for (int i = 0; i < ins; i++, from += c.vectors * LANES)
                for (int o = 0; o < c.count; o++) to[(long)(c.first + o) * ins + i] += from[o];
    }
};

// the first layer: x (count,width) = relu(row of the table + coordinates * their weights)
void gather(const Network& net, const float* table, const long* nearest, const float* coords, int count, float* x) {
    for (const Columns& chunk : net.columns)
        for (int v = 0; v < chunk.vectors; v++) {
            const int c = chunk.first + v * LANES;
            const Part part((int)net.width - c);
            Vec w[COORDS];
            EACH (int k = 0; k < COORDS; k++) w[k] = load(net.coords + COORDS * chunk.first + (k * chunk.vectors + v) * LANES);
            for (int r = 0; r < count; r++) {
                Vec value = part.load(table + nearest[r] * net.width + c);
                EACH (int k = 0; k < COORDS; k++) value += coords[r * COORDS + k] * w[k];
                store(x + r * net.pitch + c, relu(value));
            }
        }
}

// the sum of the rows' errors; g gets their gradient
double errors(const float* x, const float* target, bool absolute, int count, long pitch, float* g) {
    const Part colors(COLORS);
    Vec sum{};
    for (int r = 0; r < count; r++) {
        const Vec difference = load(x + r * pitch) - colors.load(target + r * COLORS), size = difference > 0 ? difference : -difference;
        sum += absolute ? size : difference * difference;
        const Vec sign = difference > 0 ? all(1.f) : difference < 0 ? all(-1.f) : Vec{};
        store(g + r * pitch, absolute ? sign : 2 * difference);
    }
    double total = 0;
    for (int i = 0; i < COLORS; i++) total += sum[i];
    return total;
}

// one strip there and back; its gradients are added to sums and of_table
double work(const Network& net, const PixelInputs& p, long image, long first, int count, bool absolute, float* memory, float* sums, float* of_table) {
    const long* nearest = p.nearest + image * p.nearest_step + first;
    const float* coords = p.coords + image * p.coords_step + first * COORDS;
    float *x = memory, *other = memory + STRIP * net.activations, *g = other + STRIP * net.widest;
    gather(net, p.table + image * p.rows * net.width, nearest, coords, count, x);
    for (const Layer& l : net.layers) {
        float* y = x + STRIP * l.in_pitch;
        multiply(x, l.in_pitch, l.weight, l.in, l.columns, y, l.out_pitch, count, false);
        const bool last = &l == &net.layers.back();
        for (int c = 0; c < l.out; c += LANES) {
            const Vec bias = load(l.bias + c);
            for (int r = 0; r < count; r++) {
                const Vec value = load(y + r * l.out_pitch + c) + bias;
                store(y + r * l.out_pitch + c, last ? value : relu(value));
            }
        }
        x = y;
    }
    const float* target = p.target + (image * p.count + first) * COLORS;
    const double error = errors(x, target, absolute, count, net.layers.back().out_pitch, g);
    for (auto l = net.layers.rbegin(); l != net.layers.rend(); l++) {
        x -= STRIP * l->in_pitch;
        float* bias = sums + l->sums + l->in * l->out_pitch;
        for (int c = 0; c < l->out; c += LANES) {
            Vec sum = load(bias + c);
            for (int r = 0; r < count; r++) sum += load(g + r * l->out_pitch + c);
            store(bias + c, sum);
        }
        accumulate(x, l->in_pitch, l->in, g, l->out_pitch, l->columns, count, sums + l->sums);
        multiply(g, l->out_pitch, l->turned, l->out, l->back, other, l->in_pitch, count, false);
        for (int c = 0; c < l->in; c += LANES)
            for (int r = 0; r < count; r++) {
                const long at = r * l->in_pitch + c;
                store(other + at, load(x + at) > 0 ? load(other + at) : Vec{});
            }
        std::swap(other, g);
    }
    accumulate(coords, COORDS, COORDS, g, net.pitch, net.columns, count, sums);
    for (int r = 0; r < count; r++) {
        float* to = of_table + nearest[r] * net.width;
        for (int c = 0; c < net.width; c += LANES) {
            const Part part((int)net.width - c);
            part.store(to + c, part.load(to + c) + load(g + r * net.pitch + c));
        }
    }
    return error;
}
}  // namespace

// The images' rows are divided beforehand: sums do not depend on which thread is the faster, or on how many there are.
extern "C" void pixel_errors(PixelInputs p, Parameters parameters, Errors result, int threads) {
    Network net(parameters);
    const int parts = std::max(1, ITEMS / p.images), items = p.images * parts;
    const long own = STRIP * (net.activations + 2 * net.widest);
    threads = std::max(1, std::min(threads, items));
    float* memory = workspace(net.packed + items * net.sums + threads * own);
    float *all_sums = memory + net.packed, *scratch = all_sums + items * net.sums;
    net.pack_into(memory, parameters);
    std::vector<double> totals(items);
    std::atomic<int> next{0};
    in_parallel(threads, [&](int thread) {
        for (int item; (item = next++) < items;) {
            const long image = item / parts, part = item % parts, lines = p.rows / p.across;
            const long top = part * lines / parts * p.across, bottom = (part + 1) * lines / parts * p.across;
            const long* nearest = p.nearest + image * p.nearest_step;
            const auto reads_above = [](long row, long limit) { return row < limit; };
            const long first = std::lower_bound(nearest, nearest + p.count, top, reads_above) - nearest;
            const long last = std::lower_bound(nearest, nearest + p.count, bottom, reads_above) - nearest;
            float *sums = all_sums + item * net.sums, *of_table = result.of_table + image * p.rows * net.width;
            std::fill_n(sums, net.sums, 0.f);
            std::fill(of_table + top * net.width, of_table + bottom * net.width, 0.f);
            for (long at = first; at < last; at += STRIP)
                totals[item] += work(net, p, image, at, (int)std::min((long)STRIP, last - at), result.absolute, scratch + thread * own, sums, of_table);
        }
    });
    std::fill_n(result.of_parameters, p.images * result.parameters, 0.f);
    for (int item = 0; item < items; item++) {
        net.unpack(all_sums + item * net.sums, result.of_parameters + item / parts * result.parameters);
        result.sums[item / parts] = (item % parts ? result.sums[item / parts] : 0) + totals[item];
    }
}
