#include <cmath>
#include <type_traits>

#include "cpu/attention_narrow.h"
#include "cpu/attention_wide.h"
#include "cpu/dispatch.h"

namespace tts::TTS_ISA {
namespace {

thread_local ThreadScratch scratch;

template <class Out>
void write_scaled(const float* from, float factor, int64_t head_dim, Out* to) {
  int64_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) store(to + d, load(from + d) * factor);
  for (; d < head_dim; ++d) store_float(to + d, from[d] * factor);
}

// One unit and one kv head. Runs of few queries and runs of many are summed apart and joined at the end.
template <class KV, class Element>
class UnitTask {
 public:
  UnitTask(const TreeAttentionParams& p, const Unit& unit, int64_t kv_head)
      : work_(p, unit, kv_head), narrow_(work_), wide_(work_) {
    const int64_t seen = work_.queries + kLanes, block = kLanes * wide_.head_rows();
    scratch.reset(Narrow<KV>::floats(work_) + wide_.floats() + 2 * seen + block,
                  Narrow<KV>::kPieces + Wide<KV, Element>::kPieces + 3);
    narrow_.take(scratch);
    wide_.take(scratch);
    work_.first = reinterpret_cast<int32_t*>(scratch.take(seen));
    work_.last = reinterpret_cast<int32_t*>(scratch.take(seen));
    block_ = scratch.take(block);
  }

  void run() {
    for (int64_t i = work_.unit.run_begin; i < work_.unit.run_end; ++i) {
      const Run& run = work_.p.runs[i];
      int64_t begin, end;
      work_.look(run, begin, end);
      if (begin >= end) continue;
      if (Narrow<KV>::fits(work_, work_.query_end(run) - work_.query_begin(run))) narrow_.attend(run, begin, end);
      else wide_.attend(run, begin, end);
    }
    for (int64_t query = 0; query < work_.queries; query += kLanes) {
      if (wide_.used()) wide_.copy_acc(query, block_);
      else std::memset(block_, 0, kLanes * wide_.head_rows() * sizeof(float));
      for (int64_t i = query; i < query + kLanes && i < work_.queries; ++i)
        write(i, block_ + (i - query) * wide_.head_rows());
    }
  }

 private:
  // acc: what the wide runs gave.
  void write(int64_t query, float* acc) const {
    const TreeAttentionParams& p = work_.p;
    const float narrow_max = narrow_.used() ? narrow_.max(query) : -INFINITY;
    const float wide_max = wide_.used() ? wide_.max(query) : -INFINITY;
    const float max = std::fmax(narrow_max, wide_max), base = safe_max(max);
    float sum = wide_max > -INFINITY ? std::exp(wide_max - base) * wide_.sum(query) : 0.0f;
    if (wide_max > -INFINITY && wide_max < base) scale(acc, std::exp(wide_max - base));
    if (narrow_max > -INFINITY) {
      const float share = std::exp(narrow_max - base);
      sum += share * narrow_.sum(query);
      for (int64_t d = 0; d < p.head_dim; d += kLanes)
        store(acc + d, load(acc + d) + share * load(narrow_.acc(query) + d));
    }
    const int64_t row = work_.row(query);
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    const bool joined = p.join_ptr[row] < p.join_ptr[row + 1];
    const int64_t slot = work_.unit.part_begin + row - work_.unit.row_begin;
    const int64_t at = (joined ? slot : row) * p.q_heads + work_.head(query);
    (joined ? p.part_lse : p.lse)[at] = state_lse(max, sum);
    if (joined) return write_scaled(acc, inverse, p.head_dim, static_cast<float*>(p.part_out) + at * p.head_dim);
    with_dtype(p.dtype, [&](auto type) {
      write_scaled(acc, inverse, p.head_dim, static_cast<decltype(type)*>(p.out) + at * p.head_dim);
    });
  }
  void scale(float* acc, float factor) const {
    for (int64_t d = 0; d < wide_.head_rows(); d += kLanes) store(acc + d, load(acc + d) * factor);
  }

  Work work_;
  Narrow<KV> narrow_;
  Wide<KV, Element> wide_;
  float* block_;
};

// One head of one row: the sum of its partial results in the order of the plan, each with its share of the soft-max.
template <class T>
void join_parts(const TreeAttentionParams& p, int64_t row, int64_t head, float* weights, float* total) {
  const int32_t* slots = p.join_slots + p.join_ptr[row];
  const int64_t parts = p.join_ptr[row + 1] - p.join_ptr[row], at = row * p.q_heads + head;
  float max = -INFINITY, sum = 0.0f;
  for (int64_t i = 0; i < parts; ++i) max = std::fmax(max, p.part_lse[slots[i] * p.q_heads + head]);
  for (int64_t i = 0; i < parts; ++i) {
    weights[i] = std::exp(p.part_lse[slots[i] * p.q_heads + head] - safe_max(max));
    sum += weights[i];
  }
  p.lse[at] = state_lse(max, sum);
  std::memset(total, 0, (p.head_dim + kLanes) * sizeof(float));
  for (int64_t i = 0; i < parts; ++i) {
    const float* part = static_cast<const float*>(p.part_out) + (slots[i] * p.q_heads + head) * p.head_dim;
    int64_t d = 0;
    for (; d + kLanes <= p.head_dim; d += kLanes) store(total + d, load(total + d) + weights[i] * load(part + d));
    for (; d < p.head_dim; ++d) total[d] += weights[i] * part[d];
  }
  write_scaled(total, sum == 0.0f ? 0.0f : 1.0f / sum, p.head_dim, static_cast<T*>(p.out) + at * p.head_dim);
}

// Calls body with values of the types that pages hold and that products are made of.
template <class Body>
void with_types(const TreeAttentionParams& p, const Body& body) {
  const auto eight_bits = [&](auto kv) {
    if constexpr (kHasPairs)
      if (p.dtype == DType::kBFloat16) return body(kv, Pair{});
    body(kv, float{});
  };
  if (p.stored == Stored::kInt8) return eight_bits(Int8{});
  if (p.stored == Stored::kFloat8) return eight_bits(Float8{});
  if constexpr (kHasPairs)
    if (p.dtype == DType::kBFloat16) return body(BFloat16{}, Pair{});
  with_dtype(p.dtype, [&](auto kv) { body(kv, float{}); });
}

}  // namespace

void tree_attention(const TreeAttentionParams& p, const Parallel& pool) {
  with_types(p, [&](auto kv, auto element) {
    using Task = UnitTask<decltype(kv), decltype(element)>;
    for_each_task(pool, p.num_units * p.kv_heads, [&](int64_t task) {
      const MatrixUnit<decltype(element)> unit;
      Task(p, p.units[task / p.kv_heads], task % p.kv_heads).run();
    });
  });
  with_dtype(p.dtype, [&](auto type) {
    for_each_task(pool, p.join_ptr[p.rows] > 0 ? p.rows : 0, [&](int64_t row) {
      const int64_t parts = p.join_ptr[row + 1] - p.join_ptr[row];
      if (parts == 0) return;
      scratch.reset(parts + p.head_dim + kLanes, 2);
      float *weights = scratch.take(parts), *total = scratch.take(p.head_dim + kLanes);
      for (int64_t head = 0; head < p.q_heads; ++head) join_parts<decltype(type)>(p, row, head, weights, total);
    });
  });
}

}  // namespace tts::TTS_ISA
