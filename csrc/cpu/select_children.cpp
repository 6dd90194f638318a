#include <algorithm>
#include <cmath>

#include "cpu/dispatch.h"
#include "cpu/task_memory.h"

namespace tts::TTS_ISA {
namespace {

// A share that is a whole number but for rounding must not be rounded up to the next: equal scores share evenly.
constexpr double kBelowRounding = 1.0 - 1e-12;

struct Candidate {
  float score;
  int32_t index;
  // Soft-max weight of this and every later candidate of the order (rebase only).
  double weight, weight_from_here;
};
bool better(const Candidate& a, const Candidate& b) {
  return a.score > b.score || (a.score == b.score && a.index < b.index);
}

void share_evenly(const Candidate* kept, int64_t count, int64_t budget, int32_t* widths) {
  for (int64_t i = 0; i < count; ++i) widths[kept[i].index] = int32_t(budget / count + (i < budget % count));
}

void share_by_weight(Candidate* kept, int64_t count, int64_t budget, double temperature, int32_t* widths) {
  const double max = kept[0].score;
  double sum = 0.0;
  // From the smallest up: no drift, and the last candidate's weight is all that remains when its turn comes.
  for (int64_t i = count - 1; i >= 0; --i) {
    const double score = kept[i].score;
    kept[i].weight = score == max ? 1.0 : std::exp((score - max) / temperature);
    kept[i].weight_from_here = sum += kept[i].weight;
  }
  for (int64_t i = 0; i < count && budget > 0; ++i) {
    // Never more than is left, since the weight is a part of weight_from_here; all of it for the last.
    const auto width = int64_t(std::ceil(double(budget) * kept[i].weight / kept[i].weight_from_here * kBelowRounding));
    widths[kept[i].index] = int32_t(width);
    budget -= width;
  }
}

void select_group(const SelectChildrenParams& p, int64_t group) {
  const int64_t begin = p.offsets[group], size = p.offsets[group + 1] - begin;
  const int64_t count = p.keep[group] < size ? p.keep[group] : size;
  int32_t* widths = p.widths + begin;
  for (int64_t i = 0; i < size; ++i) widths[i] = 0;
  if (count <= 0) return;
  const TaskMemory<Candidate> memory(size);
  Candidate* order = memory.items;
  for (int64_t i = 0; i < size; ++i) order[i] = {p.scores[begin + i], int32_t(i), 0.0, 0.0};
  std::partial_sort(order, order + count, order + size, better);
  if (p.rule == SelectRule::kTopK) share_evenly(order, count, p.budget[group], widths);
  else share_by_weight(order, count, p.budget[group], p.temperature, widths);
}

}  // namespace

void select_children(const SelectChildrenParams& p, const Parallel& pool) {
  for_each_task(pool, p.groups, [&](int64_t group) { select_group(p, group); });
}

}  // namespace tts::TTS_ISA
