#include "cpu/attention_work.h"
#include "cpu/dispatch.h"
#include "cpu/panel.h"
#include "cpu/thread_scratch.h"

namespace tts::TTS_ISA {
namespace {

thread_local ThreadScratch scratch, panel_scratch;

// Rows of the weight that are multiplied together, the most elements of their depth at a time, and columns of x: as
// much of x as the nearest cache holds.
constexpr int64_t kWeights = 64, kDepth = 256, kColumns = 2 * kLanes;

// out = x * weight^T. Few rows of x: they become panels of columns, and the weight, which is what takes time to read,
// is read once, as it lies.
template <class T, class Element>
class Linear {
 public:
  static constexpr int64_t kPerElement = sizeof(Element) / sizeof(T);
  explicit Linear(const LinearParams& p)
      : p_(p), depth_(p.depth / kPerElement), room_(round_up(depth_, kLanes)), columns_(round_up(p.rows, kLanes)) {
    const int64_t parts = (depth_ + kDepth - 1) / kDepth;
    part_ = round_up((depth_ + parts - 1) / parts, kLanes);
    panel_scratch.reset(room_ * columns_, 1);
    panels_ = reinterpret_cast<Element*>(panel_scratch.take(room_ * columns_));
    for (int64_t row = 0; row < p.rows; row += kLanes) pack(row);
  }

  int64_t blocks() const { return (p_.width + kWeights - 1) / kWeights; }
  // Weights of blocks [begin, end), the next one asked for while one is multiplied.
  void run(int64_t begin, int64_t end) const {
    scratch.reset(kWeights * columns_ + kPanelRows * depth_, 2);
    float* sums = scratch.take(kWeights * columns_);
    auto* padded = reinterpret_cast<T*>(scratch.take(kPanelRows * depth_));
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kWeights, rows = p_.width - first < kWeights ? p_.width - first : kWeights;
      const auto* weight = static_cast<const T*>(p_.weight) + first * p_.depth;
      // The matrix unit reads whole tiles: rows behind the last must be there.
      const int64_t rest = kPerElement > 1 ? rows % kPanelRows : 0, whole = rows - rest;
      if (whole) multiply_rows(weight, 0, whole, sums, block + 1 < end);
      if (rest) {
        std::memcpy(padded, weight + whole * p_.depth, rest * p_.depth * sizeof(T));
        std::memset(padded + rest * p_.depth, 0, (kPanelRows - rest) * p_.depth * sizeof(T));
        multiply_rows(padded, whole, kPanelRows, sums, false);
      }
      for (int64_t row = 0; row < p_.rows; row += kLanes) write(first, rows, row, sums);
    }
  }

 private:
  // Panels lie one behind the other, each [depth][width of the panel].
  int64_t panel_width(int64_t column) const { return columns_ - column < kColumns ? columns_ - column : kColumns; }
  void pack(int64_t row) {
    const int64_t column = row / kColumns * kColumns, width = panel_width(column);
    Element* panel = panels_ + column * room_ + (row - column);
    for (int64_t k = 0; k < depth_; k += kLanes) {
      const auto of_row = [&](int i) {
        if (row + i >= p_.rows) return Vec(0.0f);
        const T* from = static_cast<const T*>(p_.x) + (row + i) * p_.x_stride;
        return load_some(reinterpret_cast<const float*>(from) + k, depth_ - k);
      };
      transpose_block(of_row, panel + k * width, width);
    }
  }
  // sums, a panel behind the other, each [kWeights][width of the panel], from row `at` on.
  void multiply_rows(const T* weight, int64_t at, int64_t rows, float* sums, bool more) const {
    const auto* elements = reinterpret_cast<const Element*>(weight);
    for (int64_t k = 0; k < depth_; k += part_) {
      const bool last = depth_ - k <= part_;
      const int64_t depth = last ? depth_ - k : part_, ahead = !last ? part_ : more ? kWeights * depth_ - k : 0;
      for (int64_t column = 0; column < columns_; column += kColumns) {
        const int64_t width = panel_width(column);
        const Element* panel = panels_ + column * room_ + k * width;
        float* sum = sums + column * kWeights + at * width;
        multiply<false>(Panel<Element>{elements + k, depth_, panel, width, depth, sum, width, column ? 0 : ahead}, rows,
                        width / kLanes, k > 0);
      }
    }
  }
  // The weights of a block for kLanes rows of x, each row's results at once: the next row's are far away.
  void write(int64_t first, int64_t count, int64_t row, const float* sums) const {
    const int64_t column = row / kColumns * kColumns, width = panel_width(column);
    const float* from = sums + column * kWeights + (row - column);
    alignas(64) float block[kLanes * kWeights];
    for (int64_t at = 0; at < count; at += kLanes)
      transpose_block([&](int i) { return load(from + (at + i) * width); }, block + at, kWeights);
    const T* bias = p_.bias ? static_cast<const T*>(p_.bias) + first : nullptr;
    for (int64_t i = 0; i < kLanes && row + i < p_.rows; ++i) {
      T* to = static_cast<T*>(p_.out) + (row + i) * p_.width + first;
      for (int64_t at = 0; at < count; at += kLanes) {
        Vec sum = load(block + i * kWeights + at);
        if (bias) sum += load_some(bias + at, count - at);
        if (count - at >= kLanes) store(to + at, sum);
        else
          for (int64_t j = 0; at + j < count; ++j) store_float(to + at + j, sum[j]);
      }
    }
  }

  const LinearParams& p_;
  const int64_t depth_, room_, columns_;
  int64_t part_;  // of the depth, multiplied at a time
  Element* panels_;
};

template <class T, class Element>
void run_linear(const LinearParams& p, const Parallel& pool) {
  const Linear<T, Element> linear(p);
  // A few tasks for each thread: enough to even out, and long enough to read ahead.
  const int64_t blocks = linear.blocks(), most = pool.num_threads > 1 ? 4 * pool.num_threads : 1;
  const int64_t tasks = blocks < most ? blocks : most;
  for_each_task(pool, tasks, [&](int64_t task) {
    const MatrixUnit<Element> unit;
    linear.run(task * blocks / tasks, (task + 1) * blocks / tasks);
  });
}

}  // namespace

void linear(const LinearParams& p, const Parallel& pool) {
  if constexpr (kHasPairs)
    if (p.dtype == DType::kBFloat16) return run_linear<BFloat16, Pair>(p, pool);
  run_linear<float, float>(p, pool);
}

}  // namespace tts::TTS_ISA
