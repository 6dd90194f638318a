#include <algorithm>

#include "cpu/dispatch.h"
#include "cpu/noise.h"
#include "cpu/restrict.h"
#include "cpu/vector_math.h"

namespace tts::TTS_ISA {
namespace {

// Children of one row that take tokens in descending order of score, equal scores by index.
struct Entry {
  double score;
  int64_t token;
};
bool better(const Entry& a, const Entry& b) { return a.score > b.score || (a.score == b.score && a.token < b.token); }

// The best few entries offered so far: a heap with the worst on top.
struct Best {
  Entry* entries;
  int64_t capacity, count = 0;

  // What an entry must reach to get in; anything may while there is room.
  double bar() const { return count < capacity ? -INFINITY : entries[0].score; }
  void offer(const Entry& entry) {
    if (count == capacity) {
      if (!better(entry, entries[0])) return;
      std::pop_heap(entries, entries + count--, better);
    }
    entries[count++] = entry;
    std::push_heap(entries, entries + count, better);
  }
};

template <class T>
void largest(const LogitsRow<T>& row, Best& best) {
  for (int64_t i = 0; i < row.vocab; i += kLanes) {
    const Vec x = row.at(i, row.vocab);
    if (stdx::none_of(x > Vec(float(best.bar())))) continue;
    for (int lane = 0; lane < kLanes; ++lane) {
      if (x[lane] > -INFINITY) best.offer({double(x[lane]), i + lane});
    }
  }
}

// Gumbel top-k: the best of log-weight + noise. With v = 1 - u the noise -log(-log(u)) is below -log(v), so a
// token can only get in when v <= exp(log-weight - bar); few pass, and only they pay for exact logarithms.
template <class T>
void perturbed(const LogitsRow<T>& row, const Cut& cut, uint64_t key, uint32_t position, Best& best) {
  const Vec scale(float(row.inverse_temperature));
  uint32_t words[kNoiseTokens];
  for (int64_t first = 0; first < row.vocab; first += kNoiseTokens) {
    bool drawn = false;
    const int64_t end = std::min(first + kNoiseTokens, row.vocab);
    for (int64_t i = first; i < end; i += kLanes) {
      const Vec x = row.at(i, end);
      // A bar this low is out of float's reach: everything passes.
      const double bar = best.bar() > -1e30 ? best.bar() : -INFINITY;
      const float margin = 1e-3f + 1e-6f * float(std::fabs(bar));
      Vec room(0.0f);
      if (bar > -INFINITY) room = stdx::min(Vec((x - Vec(row.max)) * scale - Vec(float(bar) - margin)), room);
      stdx::where(!(x >= Vec(cut.value) && x > Vec(-INFINITY)), room) = Vec(-INFINITY);
      // exp(-23) is less than the smallest v.
      if (stdx::none_of(room > Vec(-23.0f))) continue;
      if (!drawn) noise_words(key, position, uint32_t(first / 4), words);
      drawn = true;
      const VecI half_v = bit_cast<VecI>(VecU(~VecU(words + (i - first), stdx::element_aligned) >> 1));
      const auto pass = stdx::static_simd_cast<Vec>(half_v) <= TTS_ISA::exp(room) * 0x1p31f;
      if (stdx::none_of(pass && room > Vec(-23.0f))) continue;
      for (int lane = 0; lane < kLanes; ++lane) {
        if (!pass[lane] || i + lane >= end || !cut.keeps(x[lane], i + lane)) continue;
        if (cut.min_weight > 0.0 && row.weight(x[lane]) < cut.min_weight) continue;
        const double gumbel = -std::log(-std::log(philox_uniform(words[i - first + lane])));
        best.offer({row.scaled(x[lane]) + gumbel, i + lane});
      }
    }
  }
}

// Sums of weights over equal runs of tokens, and the token at which the sum passes a target.
template <class T>
class Cumulative {
 public:
  Cumulative(const LogitsRow<T>& row, const Cut& cut) : row_(row), cut_(cut) {
    run_ = ((row.vocab + kRuns - 1) / kRuns + 127) / 128 * 128;
    double sum = 0.0;
    for (int64_t begin = 0; begin < row.vocab; begin += run_) {
      const int64_t end = std::min(begin + run_, row.vocab);
      // Ties with the cut count up to its last token only.
      const int64_t edge = cut.last < begin ? begin : cut.last < end ? cut.last + 1 : end;
      sum += mass(begin, edge, cut.value) + mass(edge, end, above(cut.value));
      sums_[count_++] = sum;
    }
  }
  double total() const { return sums_[count_ - 1]; }

  int64_t token_at(double uniform) const {
    const double target = uniform * total();
    int64_t low = 0, high = count_ - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (sums_[middle] > target) high = middle;
      else low = middle + 1;
    }
    double sum = low ? sums_[low - 1] : 0.0;
    const int64_t begin = low * run_, end = std::min(begin + run_, row_.vocab);
    int64_t token = begin;
    for (int64_t i = begin; i < end; i += kLanes) {
      const Vec x = row_.at(i, end);
      VecD weight[2];
      if (!row_.kept_weights(x, cut_.value, cut_.min_weight, weight)) continue;
      for (int lane = 0; lane < kLanes; ++lane) {
        const double each = weight[lane / kLanesD][lane % kLanesD];
        if (each <= 0.0 || !cut_.keeps(x[lane], i + lane)) continue;
        // Rounding may leave the sum a hair short of the target: then the last token with weight has it.
        token = i + lane;
        if ((sum += each) > target) return token;
      }
    }
    return token;
  }

 private:
  static float above(float x) { return x > -INFINITY ? std::nextafter(x, INFINITY) : x; }
  double mass(int64_t begin, int64_t end, float threshold) const {
    VecD sum[2] = {VecD(0.0), VecD(0.0)}, weight[2];
    for (int64_t i = begin; i < end; i += kLanes) {
      if (!row_.kept_weights(row_.at(i, end), threshold, cut_.min_weight, weight)) continue;
      for (int half = 0; half < 2; ++half) sum[half] += weight[half];
    }
    return stdx::reduce(VecD(sum[0] + sum[1]));
  }

  static constexpr int64_t kRuns = 1024;
  const LogitsRow<T>& row_;
  const Cut& cut_;
  int64_t run_, count_ = 0;
  double sums_[kRuns];
};

template <class T>
void draw_distinct(const SampleChildrenParams& p, int64_t r, const LogitsRow<T>& row, const Cut& cut) {
  int64_t* tokens = p.tokens + p.offsets[r];
  const int64_t width = p.offsets[r + 1] - p.offsets[r], wanted = p.distinct ? std::min(width, p.vocab) : 1;
  const TaskMemory<Entry> memory(wanted);
  Best best{memory.items, wanted};
  if (p.temperature == 0.0) largest(row, best);
  else perturbed(row, cut, uint64_t(p.keys[r]), uint32_t(p.positions[r]), best);
  std::sort_heap(best.entries, best.entries + best.count, better);
  for (int64_t j = 0; j < width; ++j) tokens[j] = best.entries[j % best.count].token;
}

// Returns the sum of the weights drawn from.
template <class T>
double draw_independent(const SampleChildrenParams& p, int64_t r, const LogitsRow<T>& row, const Cut& cut) {
  const Cumulative<T> cumulative(row, cut);
  int64_t* tokens = p.tokens + p.offsets[r];
  for (int32_t j = 0; j < p.offsets[r + 1] - p.offsets[r]; ++j) {
    uint32_t words[4] = {uint32_t(p.positions[r]), uint32_t(j), kDraw, 0};
    philox4x32(uint64_t(p.keys[r]), words);
    tokens[j] = cumulative.token_at(philox_uniform(words[0]));
  }
  return cumulative.total();
}

template <class T>
void sample_row(const SampleChildrenParams& p, int64_t r) {
  const int64_t begin = p.offsets[r], end = p.offsets[r + 1];
  if (begin == end) return;
  LogitsRow<T> row{static_cast<const T*>(p.logits) + r * p.vocab, p.vocab,
                   p.temperature > 0.0 ? 1.0 / p.temperature : 1.0};
  if (!row.find_max()) {
    for (int64_t child = begin; child < end; ++child) p.tokens[child] = -1, p.log_probs[child] = NAN;
    return;
  }
  Cut cut;
  if (p.temperature > 0.0 && (p.top_k > 0 || p.top_p < 1.0)) cut = Restriction<T>(row, p.top_k, p.top_p).cut();
  cut.min_weight = p.min_p;
  double drawn_total = 0.0;
  if (p.distinct || p.temperature == 0.0) draw_distinct(p, r, row, cut);
  else drawn_total = draw_independent(p, r, row, cut);
  // The draw has summed exp(logit - max) already when it needed neither temperature nor restriction.
  const bool summed = drawn_total > 0.0 && p.temperature == 1.0 && cut.keeps_all();
  row.inverse_temperature = 1.0;
  const double log_total = std::log(summed ? drawn_total : row.total());
  for (int64_t child = begin; child < end; ++child) {
    p.log_probs[child] = float(row.scaled(to_float(row.logits[p.tokens[child]])) - log_total);
  }
}

}  // namespace

void sample_children(const SampleChildrenParams& p, const Parallel& pool) {
  with_dtype(p.dtype,
             [&](auto type) { for_each_task(pool, p.rows, [&](int64_t row) { sample_row<decltype(type)>(p, row); }); });
}

}  // namespace tts::TTS_ISA
