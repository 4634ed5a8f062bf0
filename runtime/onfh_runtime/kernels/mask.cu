// From a stage's answers to a mask: logits to probabilities, a map to the stack's pixels, small pieces taken away.

// ---- probabilities: stages.positive_probability, and whether any is NaN or outside 0 to 1

enum Activation { NONE = 0, SIGMOID = 1, SOFTMAX = 2 };

DEVICE float sigmoid(float value) { return 0.5f * (1.0f + tanh(0.5f * value)); } // tanh never overflows

template <class T> struct Probability {
    const T* __restrict__ logits; // (rows, classes, pixels)
    float* __restrict__ out;      // (rows, pixels)
    i32* bad;
    i32 total, classes, pixels, positive, activation;

    DEVICE int steps() const { return 1; }
    DEVICE void step(int, const Thread& t, char*) const {
        const i32 i = t.block.x * t.count + t.index;
        if (i >= total) return;
        const i32 row = i / pixels;
        const float value = of(logits + static_cast<i64>(row) * classes * pixels + (i - row * pixels));
        out[i] = value;
        if (!(value >= 0.0f && value <= 1.0f)) *bad = 1; // written so that NaN counts too
    }

    // first: the logit of class 0.
    DEVICE float of(const T* first) const {
        const float chosen = logit(first, positive);
        if (activation == NONE) return chosen;
        if (activation == SIGMOID) return sigmoid(chosen);
        if (classes == 2) return sigmoid(chosen - logit(first, 1 - positive));
        float largest = chosen, sum = 0.0f;
        for (i32 k = 0; k < classes; ++k) largest = fmax(largest, logit(first, k));
        for (i32 k = 0; k < classes; ++k) sum += exp(logit(first, k) - largest);
        return exp(chosen - largest) / sum;
    }
    DEVICE float logit(const T* first, i32 k) const { return to_float(first[static_cast<i64>(k) * pixels]); }
};

#define PROBABILITY_PARAMETERS(T)                                                                                     \
    (const T* logits, float* out, i32* bad, i32 total, i32 classes, i32 pixels, i32 positive, i32 activation)

KERNEL(probability_float, Probability<float>, PROBABILITY_PARAMETERS(float), logits, out, bad, total, classes, pixels,
       positive, activation)
KERNEL(probability_half, Probability<half_t>, PROBABILITY_PARAMETERS(half_t), logits, out, bad, total, classes, pixels,
       positive, activation)

// ---- mask: stage_input.map_to_stack by its taps, and the threshold; tables as preprocess.mask_tables packs them

struct MapToMask {
    const float* __restrict__ maps;  // (slices, height, width)
    const i32* __restrict__ tables;
    u8* __restrict__ mask;           // (slices, rows, columns)
    i32 height, width, rows, columns, row_taps, column_taps;
    float threshold;

    DEVICE int steps() const { return 1; }
    DEVICE void step(int, const Thread& t, char*) const {
        const i32 pixel = t.block.x * t.count + t.index;
        if (pixel >= rows * columns) return;
        const i32 row = pixel / columns, column = pixel - row * columns;
        const float* weights = reinterpret_cast<const float*>(tables + rows + columns);
        const float* of_row = weights + row * row_taps;
        const float* of_column = weights + rows * row_taps + column * column_taps;
        const i64 slice = t.block.y;
        const float* values = maps + (slice * height + tables[row]) * width + tables[rows + column];
        float sum = 0.0f;
        for (i32 i = 0; i < row_taps; ++i, values += width) {
            float along = 0.0f;
            for (i32 j = 0; j < column_taps; ++j) along += of_column[j] * values[j];
            sum += of_row[i] * along;
        }
        mask[slice * rows * columns + pixel] = sum >= threshold;
    }
};

KERNEL(map_to_mask, MapToMask,
       (const float* maps, const i32* tables, u8* mask, i32 height, i32 width, i32 rows, i32 columns, i32 row_taps,
        i32 column_taps, float threshold),
       maps, tables, mask, height, width, rows, columns, row_taps, column_taps, threshold)

// ---- small components: components.without_small_components, by union-find over the runs of the mask's rows
//
// The label of a run's first voxel is its parent, a root being its own; that of any other voxel is its run's first.
// Parents only become less, so what another thread reads late is still of the same piece: block-free union-find after
// Playne and Hawick, "A new algorithm for parallel connected-component labelling on GPUs", IEEE Transactions on
// Parallel and Distributed Systems 29, 2018.

struct Voxels {
    u8* mask;   // (slices, rows, columns)
    i32* label; // of voxels in the mask; others are never written
    i32* size;  // of runs at their first voxel, and in the end of pieces at their root
    i32 total, rows, columns;

    DEVICE bool starts_run(i32 i) const { return i % columns == 0 || !mask[i - 1]; }
    DEVICE bool ends_run(i32 i) const { return i % columns == columns - 1 || !mask[i + 1]; }
    DEVICE i32 root(i32 i) const {
        const volatile i32* parents = label;
        for (i32 parent = parents[i]; parent != i; parent = parents[i]) i = parent;
        return i;
    }
    DEVICE void unite(i32 one, i32 other) const {
        one = root(one), other = root(other);
        while (one != other) {
            const i32 high = one > other ? one : other, low = one > other ? other : one;
            const i32 old = atomicMin(label + high, low);
            if (old == high) return;
            // Another thread was first: what it left there and ours are one piece too.
            one = root(old), other = root(low);
        }
    }
};

struct ComponentRuns {
    Voxels voxels;

    DEVICE int steps() const { return 1; }
    DEVICE void step(int, const Thread& t, char*) const {
        const i32 line = t.block.x * t.count + t.index, columns = voxels.columns;
        if (line >= voxels.total / columns) return;
        const i32 end = (line + 1) * columns;
        for (i32 i = line * columns, start = i; i < end; ++i) {
            if (!voxels.mask[i]) continue;
            if (voxels.starts_run(i)) start = i;
            voxels.label[i] = start;
            if (voxels.ends_run(i)) voxels.size[start] = i - start + 1;
        }
    }
};

struct ComponentMerge {
    Voxels voxels;
    const i32* __restrict__ slice_index;

    DEVICE int steps() const { return 1; }
    DEVICE void step(int, const Thread& t, char*) const {
        const i32 i = t.block.x * t.count + t.index, columns = voxels.columns;
        if (i >= voxels.total || !voxels.mask[i]) return;
        const i32 plane = voxels.rows * columns, slice = i / plane, row = (i - slice * plane) / columns;
        if (row > 0) touch(i, i - columns);
        if (slice == 0 || slice_index[slice] - slice_index[slice - 1] != 1) return;
        if (row > 0) touch(i, i - plane - columns);
        touch(i, i - plane);
        if (row + 1 < voxels.rows) touch(i, i - plane + columns);
    }

    // Unites a voxel with the three of another line about its column; each two runs that touch are united at the first
    // column they share, or across a corner.
    DEVICE void touch(i32 i, i32 beside) const {
        const u8* mask = voxels.mask;
        const bool starts = voxels.starts_run(i);
        if (mask[beside]) {
            if (starts || !mask[beside - 1]) voxels.unite(i, beside);
            return;
        }
        if (starts && i % voxels.columns > 0 && mask[beside - 1]) voxels.unite(i, beside - 1);
        if (voxels.ends_run(i) && (i + 1) % voxels.columns > 0 && mask[beside + 1]) voxels.unite(i, beside + 1);
    }
};

struct ComponentSizes {
    Voxels voxels;

    DEVICE int steps() const { return 1; }
    DEVICE void step(int, const Thread& t, char*) const {
        const i32 i = t.block.x * t.count + t.index;
        if (i >= voxels.total || !voxels.mask[i] || !voxels.starts_run(i)) return;
        const i32 root = voxels.root(i);
        if (root == i) return;
        voxels.label[i] = root;
        atomicAdd(voxels.size + root, voxels.size[i]);
    }
};

struct ComponentRemoval {
    Voxels voxels;
    i32 minimum;
    i32* removed;

    DEVICE int steps() const { return 1; }
    DEVICE void step(int, const Thread& t, char*) const {
        const i32 i = t.block.x * t.count + t.index;
        if (i >= voxels.total || !voxels.mask[i]) return;
        const i32 root = voxels.label[voxels.label[i]]; // by way of the run's first voxel, which names the root now
        if (voxels.size[root] >= minimum) return;
        voxels.mask[i] = 0;
        if (i == root) atomicAdd(removed, voxels.size[root]);
    }
};

KERNEL(component_runs, ComponentRuns, (u8* mask, i32* label, i32* size, i32 total, i32 rows, i32 columns),
       {mask, label, size, total, rows, columns})
KERNEL(component_merge, ComponentMerge,
       (u8* mask, i32* label, i32* size, i32 total, i32 rows, i32 columns, const i32* slice_index),
       {mask, label, size, total, rows, columns}, slice_index)
KERNEL(component_sizes, ComponentSizes, (u8* mask, i32* label, i32* size, i32 total, i32 rows, i32 columns),
       {mask, label, size, total, rows, columns})
KERNEL(component_removal, ComponentRemoval,
       (u8* mask, i32* label, i32* size, i32 total, i32 rows, i32 columns, i32 minimum, i32* removed),
       {mask, label, size, total, rows, columns}, minimum, removed)
