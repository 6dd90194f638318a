// How a block leaves its rows: written where no other unit reads them, else as parts that the last unit joins.
#pragma once
#include "cuda/tree_attention_rows.h"

namespace tts::cuda {

// What becomes of a row of the tile.
enum RowState : int32_t {
  kDirect,   // this unit alone reads it
  kPartial,  // other units have not handed in their parts yet
  kComplete  // all other parts are in: this block joins them with its own
};

struct RowResult {
  float factor, lse;
};

// With the head's sink counted, a score without a value.
__device__ __forceinline__ RowResult add_sink(RowResult result, float sink) {
  const float shift = finite_or_zero(fmaxf(result.lse, sink));
  const float both = ptx::exp2_approx((result.lse - shift) * kLog2E) + ptx::exp2_approx((sink - shift) * kLog2E);
  const float lse = shift + log2f(both) * kLn2;
  return {result.factor * ptx::exp2_approx((result.lse - finite_or_zero(lse)) * kLog2E), lse};
}

__device__ __forceinline__ int32_t parts_of(const TreeAttentionParams& p, int32_t row) {
  return p.join_ptr[row + 1] - p.join_ptr[row];
}

// What normalises the sums of a matrix row, and its lse.
__device__ __forceinline__ RowResult finish_row(const TreeAttentionWork& work, const TilePlace& place, int matrix_row,
                                                float top, float total) {
  const int row = matrix_row / work.group, head = place.head * work.group + matrix_row % work.group;
  if (row >= place.rows) return {0.0f, -INFINITY};
  RowResult result{0.0f, -INFINITY};
  if (total != 0.0f) result = {1.0f / total, fmaf(top, kLn2, log2f(total) * kLn2)};
  if (work.p.sinks && parts_of(work.p, place.first_row + row) == 0) return add_sink(result, work.p.sinks[head]);
  return result;
}

template <class T>
__device__ __forceinline__ void store_pair(SharedTile tile, int row, int column, float first, float second) {
  T* to = tile.element<T>(row, column);
  if constexpr (sizeof(T) == 2) *reinterpret_cast<uint32_t*>(to) = pack<T>(first, second);
  else to[0] = first, to[1] = second;
}

// Rows that one warp has alone: from its registers to shared memory.
template <class Config, class Split>
__device__ __forceinline__ void stage_rows(const TreeAttentionWork& work, const TilePlace& place,
                                           const Accumulator<Config, Split::kTiles>& acc, unsigned char* shared,
                                           SharedTile to, int first, int first_column) {
  using Layout = SharedLayout<Config>;
  const int lane = int(threadIdx.x % 32);
#pragma unroll
  for (int i = 0; i < Split::kTiles; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int matrix_row = first + i * Split::kStep + h * 8 + lane / 4;
      const RowResult result = finish_row(work, place, matrix_row, acc.top[i][h], acc.total[i][h]);
      if (lane % 4 == 0 && first_column == 0) Layout::finished(shared)->lse[matrix_row] = result.lse;
#pragma unroll
      for (int j = 0; j < Config::kColumns / 8; ++j)
        store_pair<typename Config::Element>(to, matrix_row, first_column + j * 8 + lane % 4 * 2,
                                             acc.out[i][j][2 * h] * result.factor,
                                             acc.out[i][j][2 * h + 1] * result.factor);
    }
  }
}

// Sixteen rows of which several warps have read different keys: joined where the keys were, then staged.
template <class Config, int warps>
__device__ __forceinline__ void merge_warps(const TreeAttentionWork& work, const TilePlace& place,
                                            Accumulator<Config, 1>& acc, unsigned char* shared) {
  using Layout = SharedLayout<Config>;
  constexpr int kSumBytes = Config::kHeadDim * 4;
  static_assert(warps * 16 * kSumBytes <= Config::kKvBytes, "sums lie where keys and values were");
  Finished<Config>& finished = *Layout::finished(shared);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  for (int h = 0; h < 2 && warp < warps && lane % 4 == 0; ++h) {
    finished.top[warp * 16 + h * 8 + lane / 4] = acc.top[0][h];
    finished.total[warp * 16 + h * 8 + lane / 4] = acc.total[0][h];
  }
  __syncthreads();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (warp >= warps) break;
    const int row = h * 8 + lane / 4;
    float top = -INFINITY, total = 0.0f;
    for (int w = 0; w < warps; ++w) top = fmaxf(top, finished.top[w * 16 + row]);
    const float shift = finite_or_zero(top);
    for (int w = 0; w < warps; ++w)
      total += finished.total[w * 16 + row] * ptx::exp2_approx(finished.top[w * 16 + row] - shift);
    const RowResult result = finish_row(work, place, row, top, total);
    if (warp == 0 && lane % 4 == 0) finished.lse[row] = result.lse;
    const float factor = ptx::exp2_approx(acc.top[0][h] - shift) * result.factor;
#pragma unroll
    for (int j = 0; j < Config::kHeadDim / 8; ++j)
      store_pair<float>({shared + warp * 16 * kSumBytes, 16}, row, j * 8 + lane % 4 * 2, acc.out[0][j][2 * h] * factor,
                        acc.out[0][j][2 * h + 1] * factor);
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < 16 * Config::kHeadDim / 2; i += Config::kThreads) {
    const int row = i / (Config::kHeadDim / 2), column = i % (Config::kHeadDim / 2) * 2;
    float first = 0.0f, second = 0.0f;
    for (int w = 0; w < warps; ++w) {
      const float* sum = SharedTile{shared + w * 16 * kSumBytes, 16}.template element<float>(row, column);
      first += sum[0];
      second += sum[1];
    }
    store_pair<typename Config::Element>(Layout::queries(shared, 16), row, column, first, second);
  }
}

// A vector of elements of T, of which the first `count` are stored.
template <class T>
__device__ __forceinline__ void store_vector(T* to, const Vec16& vector, int64_t count, bool aligned) {
  constexpr int kElements = 16 / int(sizeof(T));
  if (aligned && count > 0) *reinterpret_cast<Vec16*>(to) = vector;
  if (aligned) return;
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    if (e >= count) break;
    if constexpr (sizeof(T) == 4) to[e] = bit_cast<T>(vector.words[e]);
    else to[e] = T{uint16_t(vector.words[e / 2] >> e % 2 * 16)};
  }
}

// The rows of a tile, staged in shared memory, on their way out.
template <class Config>
class RowWriter {
  using T = typename Config::Element;
  using Layout = SharedLayout<Config>;
  static constexpr int kElements = 16 / int(sizeof(T)), kVectors = Config::kHeadDim / kElements;
  // Lanes that join one row; a warp has several rows, or a row several turns.
  static constexpr int kLanes = kVectors < 32 ? kVectors : 32;

 public:
  __device__ __forceinline__ RowWriter(const TreeAttentionWork& work, const TilePlace& place, unsigned char* shared,
                                       int tile_rows)
      : work_(work),
        p_(work.p),
        place_(place),
        rows_(Layout::queries(shared, tile_rows)),
        finished_(*Layout::finished(shared)) {
    // Rows of parts are padded to whole vectors.
    part_stride_ = (p_.head_dim + kElements - 1) / kElements * kElements;
  }

  __device__ __forceinline__ void write() {
    for (int row = int(threadIdx.x); row < place_.rows; row += Config::kThreads) {
      const int32_t parts = parts_of(p_, place_.first_row + row);
      finished_.state[row] = parts == 0 ? kDirect : ptx::load_acquire(counter(row)) == parts - 1 ? kComplete : kPartial;
    }
    __syncthreads();
    write_rows();
    if (place_.slot < 0) return;
    // The atomic of one thread publishes what all threads of the block stored before the barrier.
    __syncthreads();
    for (int row = int(threadIdx.x); row < place_.rows; row += Config::kThreads) {
      const int32_t parts = parts_of(p_, place_.first_row + row);
      if (finished_.state[row] == kPartial && ptx::add_acquire_release(counter(row), 1) == parts - 1)
        finished_.state[row] = kComplete;
      if (finished_.state[row] == kComplete) *counter(row) = 0;
    }
    __syncthreads();
    join_rows();
  }

 private:
  __device__ __forceinline__ int32_t* counter(int row) const {
    return p_.counters + int64_t(place_.first_row + row) * p_.kv_heads + place_.head;
  }
  // Number of a matrix row among the heads of all rows, or of all slots.
  __device__ __forceinline__ int64_t place_of(int32_t first, int row, int matrix_row) const {
    return int64_t(first + row) * p_.q_heads + place_.head * work_.group + (matrix_row - row * work_.group);
  }

  __device__ __forceinline__ void write_rows() {
    for (int i = int(threadIdx.x); i < place_.rows * work_.group * kVectors; i += Config::kThreads) {
      const int matrix_row = i / kVectors, row = matrix_row / work_.group, column = i % kVectors * kElements;
      const int32_t state = finished_.state[row];
      if (state == kComplete) continue;
      const auto vector = *reinterpret_cast<const Vec16*>(rows_.template element<T>(matrix_row, column));
      if (state == kDirect) {
        const int64_t at = place_of(place_.first_row, row, matrix_row);
        store_vector(static_cast<T*>(p_.out) + at * p_.head_dim + column, vector, p_.head_dim - column, work_.vectors);
        if (column == 0) p_.lse[at] = finished_.lse[matrix_row];
      } else {
        const int64_t at = place_of(place_.slot, row, matrix_row);
        store_vector(static_cast<T*>(p_.part_out) + at * part_stride_ + column, vector, p_.head_dim - column, true);
        if (column == 0) p_.part_lse[at] = finished_.lse[matrix_row];
      }
    }
  }

  __device__ __forceinline__ void join_rows() {
    constexpr int kTurns = kVectors / kLanes, kTogether = 32 / kLanes;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int items = place_.rows * work_.group * kTurns;
    for (int first = warp * kTogether; first < items; first += Config::kThreads / 32 * kTogether) {
      const int item = first + lane / kLanes, matrix_row = item / kTurns, row = matrix_row / work_.group;
      const bool mine = item < items && finished_.state[item < items ? row : 0] == kComplete;
      const int vector = item % kTurns * kLanes + lane % kLanes;
      const int32_t parts = mine ? parts_of(p_, place_.first_row + row) : 0;
      int32_t most = parts;
      for (int step = kLanes; step < 32; step *= 2) most = max(most, __shfl_xor_sync(kAllLanes, most, step));
      if (most > 0) join_row(matrix_row, row, vector, parts, most);
    }
  }

  // The parts of a row in the order of their slots, this block's own from shared memory: own part and others have the
  // same rounding, so that the bits do not depend on which block came last.
  __device__ __forceinline__ void join_row(int matrix_row, int row, int vector, int32_t parts, int32_t most) {
    const int lane = int(threadIdx.x) % 32, leader = lane / kLanes * kLanes, column = vector * kElements;
    const int32_t* slots = p_.join_slots + (parts > 0 ? p_.join_ptr[place_.first_row + row] : 0);
    float sums[kElements] = {}, top = -INFINITY, total = 0.0f;
    for (int part = 0; part < most; ++part) {
      const bool here = part < parts;
      int32_t slot = -1;
      float lse = -INFINITY;
      if (here && lane == leader) slot = slots[part];
      slot = __shfl_sync(kAllLanes, slot, leader);
      const bool own = slot == place_.slot + row;
      const int64_t at = place_of(slot - row, row, matrix_row);
      if (here && lane == leader) lse = own ? finished_.lse[matrix_row] : ptx::load_past_l1(p_.part_lse + at);
      lse = __shfl_sync(kAllLanes, lse, leader);
      if (!here || column >= p_.head_dim) continue;
      Vec16 values;
      if (own) values = *reinterpret_cast<const Vec16*>(rows_.template element<T>(matrix_row, column));
      else ptx::load_past_l1_16(values.words, static_cast<const T*>(p_.part_out) + at * part_stride_ + column);
      const float new_top = fmaxf(top, lse), shift = finite_or_zero(new_top);
      const float fade = ptx::exp2_approx((top - shift) * kLog2E), weight = ptx::exp2_approx((lse - shift) * kLog2E);
      total = fmaf(total, fade, weight);
#pragma unroll
      for (int e = 0; e < kElements; ++e) sums[e] = fmaf(weight, element_of(values, e), sums[e] * fade);
      top = new_top;
    }
    if (parts > 0 && column < p_.head_dim) put(matrix_row, row, column, sums, top, total);
  }

  static __device__ __forceinline__ float element_of(const Vec16& vector, int e) {
    if constexpr (sizeof(T) == 4) return bit_cast<float>(vector.words[e]);
    else return to_float(T{uint16_t(vector.words[e / 2] >> e % 2 * 16)});
  }

  __device__ __forceinline__ void put(int matrix_row, int row, int column, float (&sums)[kElements], float top,
                                      float total) {
    RowResult result{0.0f, -INFINITY};
    if (total != 0.0f) result = {1.0f / total, top + log2f(total) * kLn2};
    if (p_.sinks) result = add_sink(result, p_.sinks[place_.head * work_.group + (matrix_row - row * work_.group)]);
    Vec16 joined;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if constexpr (sizeof(T) == 4) joined.words[w] = bit_cast<uint32_t>(sums[w] * result.factor);
      else joined.words[w] = pack<T>(sums[2 * w] * result.factor, sums[2 * w + 1] * result.factor);
    }
    const int64_t at = place_of(place_.first_row, row, matrix_row);
    store_vector(static_cast<T*>(p_.out) + at * p_.head_dim + column, joined, p_.head_dim - column, work_.vectors);
    if (column == 0) p_.lse[at] = result.lse;
  }

  const TreeAttentionWork& work_;
  const TreeAttentionParams& p_;
  const TilePlace& place_;
  const SharedTile rows_;
  Finished<Config>& finished_;
  int64_t part_stride_;
};

}  // namespace tts::cuda
