// Stored voxels to a stage's NCHW input, in one launch for a list of slices.
//
// A block makes one tile of one slice. First it resamples down the columns, straight from the stored voxels: rescale,
// slab average and window are done on the way, and what it leaves in shared memory is one value per row of the tile and
// per stored column that the tile sees. Then it resamples along the rows, normalises and writes. Nothing in between
// reaches global memory. A warp works along stack columns: in axial and coronal series these are neighbours in memory.

constexpr int WARP = 32;
constexpr int WARPS = 8;           // of a block
constexpr int ROWS_EACH = 4;       // rows of a tile that one thread makes, WARPS apart
constexpr int PLANES_AT_ONCE = 6;  // plane weights kept in registers; more are read each time

enum VoxelType { VOXEL_INT16, VOXEL_UINT16, VOXEL_HU };
enum ScaleAxis { SCALE_PLANE, SCALE_ROW, SCALE_COLUMN, SCALE_SAME };
enum Rescale { AS_IT_IS, ONE_SCALE, ONE_SCALE_PADDED, OWN_SCALE_PADDED };

struct Run {
    i32 first, count;
};
struct Slab {
    i32 first, count, weights;  // planes, and where their weights begin
};
struct Scale {
    float slope, intercept;
};
struct WindowTable {
    float low, inverse_width, air;
};
struct alignas(16) ChannelTable {
    i32 window;
    float mean, inverse_std, unused;
};

// A stored integer as a float without the slow conversion: its bits are the mantissa of a float near 2^23.
struct Decoder {
    u32 bits;
    float offset;
    DEVICE float operator()(float hu) const { return hu; }
    DEVICE float operator()(u16 stored) const { return float_from_bits(bits ^ stored) - offset; }
};

struct StageInput {
    // The uploaded voxels, and in bytes where the stack begins in them and how far it is along its axes from one plane,
    // row or column to the next: negative where an axis runs back. Rows and columns below are the stack's.
    const char* __restrict__ voxels;
    int voxel_type;
    i64 origin;
    i32 plane_stride, row_stride, column_stride;
    // Values from padding_low to padding_high were never measured; none when low > high.
    float padding_low, padding_high, air_hu;
    int scale_axis;
    const Scale* __restrict__ scales;
    const i32* __restrict__ slices;
    const Slab* __restrict__ slabs;
    const float* __restrict__ slab_weights;
    const Run* __restrict__ rows;
    const float* __restrict__ row_weights;  // (height, row_taps)
    int row_taps;
    const Run* __restrict__ columns;
    const float* __restrict__ column_weights;  // (taps, width)
    const Run* __restrict__ tiles;             // the stack columns that each column of tiles sees
    int tile_rows, tile_columns, pitch;
    const WindowTable* __restrict__ windows;
    int window_count, windows_at_once;  // 1 or 3
    const ChannelTable* __restrict__ channels;
    int channel_count, height, width;
    void* out;  // (slices, channels, height, width)
    int half_out;

    DEVICE int steps() const { return 2 * ((window_count + windows_at_once - 1) / windows_at_once); }

    DEVICE void step(int i, const Thread& t, char* shared) const {
        float* tile = reinterpret_cast<float*>(shared);
        const int first = i / 2 * windows_at_once;
        const int left = window_count - first, count = left < windows_at_once ? left : windows_at_once;
        if (i % 2 == 0) {
            if (windows_at_once == 1)
                down_columns<1>(t, tile, first, count);
            else
                down_columns<3>(t, tile, first, count);
        } else if (half_out)
            along_rows(t, tile, first, count, static_cast<half_t*>(out));
        else
            along_rows(t, tile, first, count, static_cast<float*>(out));
    }

    template <int WINDOWS>
    DEVICE void down_columns(const Thread& t, float* tile, int first, int count) const {
        const Slab slab = slabs[slices[t.block.z]];
        const bool one = slab.count == 1, padded = padding_low <= padding_high;
        const Decoder decode =
            voxel_type == VOXEL_INT16 ? Decoder{0x4B008000u, 8421376.0f} : Decoder{0x4B000000u, 8388608.0f};
        if (voxel_type == VOXEL_HU)
            down<float, AS_IT_IS, true, WINDOWS>(t, tile, first, count, slab, decode);
        else if (scale_axis != SCALE_SAME)
            down<u16, OWN_SCALE_PADDED, false, WINDOWS>(t, tile, first, count, slab, decode);
        else if (padded && one)
            down<u16, ONE_SCALE_PADDED, true, WINDOWS>(t, tile, first, count, slab, decode);
        else if (padded)
            down<u16, ONE_SCALE_PADDED, false, WINDOWS>(t, tile, first, count, slab, decode);
        else if (one)
            down<u16, ONE_SCALE, true, WINDOWS>(t, tile, first, count, slab, decode);
        else
            down<u16, ONE_SCALE, false, WINDOWS>(t, tile, first, count, slab, decode);
    }

    // ONE: a slab is one plane, and two columns at a time keep as many loads under way as the planes do otherwise.
    template <class Voxel, int RESCALE, bool ONE, int WINDOWS>
    DEVICE void down(const Thread& t, float* tile, int first_window, int count, const Slab& slab,
                     const Decoder& decode) const {
        constexpr int COLUMNS = ONE ? 2 : 1;
        const int top = t.block.y * tile_rows;
        const Run seen = tiles[t.block.x];
        float weights[PLANES_AT_ONCE], low[WINDOWS], inverse[WINDOWS];
        if (!ONE && RESCALE != OWN_SCALE_PADDED) {
            UNROLL for (int k = 0; k < PLANES_AT_ONCE; ++k)
                weights[k] = k < slab.count ? slab_weights[slab.weights + k] : 0.0f;
        }
        UNROLL for (int n = 0; n < WINDOWS; ++n) {
            const WindowTable window = windows[first_window + (n < count ? n : 0)];
            low[n] = window.low, inverse[n] = window.inverse_width;
        }
        UNROLL_BY(1) for (int y = t.index / WARP; y < tile_rows && top + y < height; y += WARPS) {
            const Run run = rows[top + y];
            const float* row_weight = row_weights + static_cast<i64>(top + y) * row_taps;
            const char* start = voxels + origin + static_cast<i64>(slab.first) * plane_stride +
                                static_cast<i64>(run.first) * row_stride;
            UNROLL_BY(1) for (int x = t.index % WARP; x < seen.count; x += COLUMNS * WARP) {
                const char* voxel[COLUMNS];
                float sum[COLUMNS][WINDOWS];
                UNROLL for (int c = 0; c < COLUMNS; ++c) {
                    const int inside = x + c * WARP < seen.count ? x + c * WARP : seen.count - 1;
                    voxel[c] = start + static_cast<i64>(seen.first + inside) * column_stride;
                    UNROLL for (int n = 0; n < WINDOWS; ++n) sum[c][n] = 0.0f;
                }
                UNROLL_BY(ONE ? 2 : 1) for (int j = 0; j < run.count; ++j) {
                    UNROLL for (int c = 0; c < COLUMNS; ++c) {
                        const char* place = voxel[c];
                        voxel[c] += row_stride;
                        const float hu = ONE ? hounsfield<RESCALE>(decode(at<Voxel>(place)), scales[0])
                                             : slab_average<RESCALE, Voxel>(place, slab, weights, decode,
                                                                            run.first + j, seen.first + x);
                        UNROLL for (int n = 0; n < WINDOWS; ++n)
                            sum[c][n] += row_weight[j] * saturate((hu - low[n]) * inverse[n]);
                    }
                }
                UNROLL for (int c = 0; c < COLUMNS; ++c)
                    UNROLL for (int n = 0; n < WINDOWS; ++n)
                        if (n < count && x + c * WARP < seen.count)
                            tile[(n * tile_rows + y) * pitch + x + c * WARP] =
                                run.count > 0 ? sum[c][n] : windows[first_window + n].air;
            }
        }
    }

    template <class Voxel>
    DEVICE Voxel at(const char* place, int plane = 0) const {
        return *reinterpret_cast<const Voxel*>(place + static_cast<i64>(plane) * plane_stride);
    }

    template <int RESCALE>
    DEVICE float hounsfield(float value, const Scale& scale) const {
        if (RESCALE == AS_IT_IS) return value;
        const float hu = value * scale.slope + scale.intercept;
        return RESCALE != ONE_SCALE && value >= padding_low && value <= padding_high ? air_hu : hu;
    }

    template <int RESCALE, class Voxel>
    DEVICE float slab_average(const char* place, const Slab& slab, const float* weights, const Decoder& decode, int row,
                              int column) const {
        float sum = 0.0f;
        if constexpr (RESCALE == OWN_SCALE_PADDED) {  // rare, and not worth the registers
            const Scale scale = scales[scale_axis == SCALE_ROW ? row : scale_axis == SCALE_COLUMN ? column : 0];
            for (int k = 0; k < slab.count; ++k)
                sum += slab_weights[slab.weights + k] *
                       hounsfield<RESCALE>(decode(at<Voxel>(place, k)),
                                           scale_axis == SCALE_PLANE ? scales[slab.first + k] : scale);
            return sum;
        } else {
            const Scale scale = scales[0];
            UNROLL for (int k = 0; k < PLANES_AT_ONCE; ++k)
                if (k < slab.count) sum += weights[k] * of_plane<RESCALE>(decode(at<Voxel>(place, k)), scale);
            UNROLL_BY(1) for (int k = PLANES_AT_ONCE; k < slab.count; ++k)
                sum += slab_weights[slab.weights + k] * of_plane<RESCALE>(decode(at<Voxel>(place, k)), scale);
            return RESCALE == ONE_SCALE ? hounsfield<RESCALE>(sum, scale) : sum;
        }
    }

    // Weights add up to 1, so without padding the average is rescaled instead of every voxel.
    template <int RESCALE>
    DEVICE float of_plane(float value, const Scale& scale) const {
        return RESCALE == ONE_SCALE ? value : hounsfield<RESCALE>(value, scale);
    }

    template <class Out>
    DEVICE void along_rows(const Thread& t, const float* tile, int first_window, int count,
                           Out* __restrict__ all) const {
        const int warp = t.index / WARP, top = t.block.y * tile_rows, left = t.block.x * tile_columns;
        const i64 plane = static_cast<i64>(height) * width;
        const int seen = tiles[t.block.x].first;
        UNROLL_BY(1) for (int x = t.index % WARP; x < tile_columns && left + x < width; x += WARP) {
            const int column = left + x;
            const Run run = columns[column];
            Out* start = all + t.block.z * channel_count * plane + static_cast<i64>(top + warp) * width + column;
            UNROLL_BY(1) for (int n = 0; n < count; ++n) {
                const float* values = tile + (n * tile_rows + warp) * pitch + run.first - seen;
                const float begin = run.count > 0 ? 0.0f : windows[first_window + n].air;
                float sum[ROWS_EACH];
                UNROLL for (int r = 0; r < ROWS_EACH; ++r) sum[r] = begin;
                UNROLL_BY(2) for (int k = 0; k < run.count; ++k) {
                    const float weight = column_weights[static_cast<i64>(k) * width + column];
                    UNROLL for (int r = 0; r < ROWS_EACH; ++r)
                        if (warp + r * WARPS < tile_rows) sum[r] += weight * values[r * WARPS * pitch + k];
                }
                UNROLL_BY(1) for (int c = 0; c < channel_count; ++c) {
                    const ChannelTable channel = channels[c];
                    if (channel.window != first_window + n) continue;
                    UNROLL for (int r = 0; r < ROWS_EACH; ++r)
                        if (warp + r * WARPS < tile_rows && top + warp + r * WARPS < height)
                            store(start + c * plane + r * WARPS * width, (sum[r] - channel.mean) * channel.inverse_std);
                }
            }
        }
    }
};

KERNEL(stage_input, StageInput,
       (const char* voxels, int voxel_type, i64 origin, i32 plane_stride, i32 row_stride, i32 column_stride,
        float padding_low, float padding_high, float air_hu, int scale_axis, const Scale* scales, const i32* slices,
        const Slab* slabs, const float* slab_weights, const Run* rows, const float* row_weights, int row_taps,
        const Run* columns, const float* column_weights, const Run* tiles, int tile_rows, int tile_columns, int pitch,
        const WindowTable* windows, int window_count, int windows_at_once, const ChannelTable* channels,
        int channel_count, int height, int width, void* out, int half_out),
       voxels, voxel_type, origin, plane_stride, row_stride, column_stride, padding_low, padding_high, air_hu,
       scale_axis, scales, slices, slabs, slab_weights, rows, row_weights, row_taps, columns, column_weights, tiles,
       tile_rows, tile_columns, pitch, windows, window_count, windows_at_once, channels, channel_count, height, width,
       out, half_out)
