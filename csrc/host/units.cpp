#include "host/units.h"

#include <algorithm>
#include <limits>

#include "host/emit.h"
#include "host/partition.h"

namespace tts::host {
namespace {

class Chooser {
 public:
  Chooser(const RowTree& tree, const Ints& row_pos, const UnitOptions& options, const Costs& costs)
      : tree_(tree),
        row_pos_(row_pos),
        options_(options),
        costs_(costs),
        nodes_(tree, row_pos, options.growth, costs),
        max_rows_(options.tile_rows > 0 ? options.tile_rows : costs.max_rows()) {
    floor_bytes_ = nodes_.tokens * costs.kv_bytes + 2.0 * row_pos.size() * costs.q_bytes;
  }

  // The fastest of a few plans, by the model; among those that are as good as equal the one that asks for least.
  UnitChoice choose() {
    const int32_t tokens = options_.split_tokens > 0 ? options_.split_tokens : std::numeric_limits<int32_t>::max();
    UnitChoice best;
    // No plan is faster than its bytes from memory, or than all processors at once.
    const double bound = costs_.kv_heads * floor_bytes_ *
                         std::max(1 / costs_.memory_bytes_per_ns, costs_.ns_per_byte / costs_.processors);
    std::vector<UnitChoice> choices;
    double fastest = kForever;
    for (const double ns : lengths()) {
      choices.push_back(make(Limit{ns, max_rows_, tokens}));
      fastest = std::min(fastest, choices.back().ns);
      // Shorter units would only ask for more.
      if (fastest <= costs_.tolerance * bound) break;
    }
    for (UnitChoice& choice : choices) {
      if (choice.ns <= costs_.tolerance * fastest && (best.units.empty() || choice.bytes < best.bytes))
        best = std::move(choice);
    }
    return best;
  }

 private:
  // How long a unit may be: anything, or little more than a processor's share of the work.
  std::vector<double> lengths() const {
    if (options_.split_tokens > 0 || std::isinf(costs_.tolerance)) return {kForever};
    const double share = floor_bytes_ * costs_.ns_per_byte * costs_.kv_heads / costs_.processors;
    const double least = costs_.unit(max_rows_, 128, 128 * costs_.padded(max_rows_));
    return {kForever, std::max(least, 2 * share), std::max(least, share)};
  }

  UnitChoice make(const Limit& limit) const {
    const Prices prices(costs_, limit, options_.page_size);
    const Partition partition(nodes_, prices);
    UnitChoice choice = Emitter(tree_, row_pos_, options_, nodes_, prices, partition).emit();
    estimate(choice);
    return choice;
  }

  void estimate(UnitChoice& choice) const {
    double total = 0, longest = 0, bytes = 0;
    int64_t unit_rows = 0;
    for (const Unit& unit : choice.units) {
      double tokens = 0, work = 0;
      for (int32_t r = unit.run_begin; r < unit.run_end; ++r) {
        const Run& run = choice.runs[r];
        const double seen = seen_tokens(run, row_pos_, options_.growth);
        tokens += seen;
        work += seen * costs_.padded(run.row_end - run.row_begin);
      }
      const int32_t rows = unit.row_end - unit.row_begin;
      const double ns = costs_.unit(rows, tokens, work);
      total += ns;
      longest = std::max(longest, ns);
      bytes += costs_.bytes(rows, tokens);
      unit_rows += rows;
    }
    const double joins = static_cast<double>(unit_rows) - static_cast<double>(row_pos_.size());
    total += joins * 2 * costs_.part_bytes * costs_.ns_per_byte;
    choice.bytes = (bytes + joins * 2 * costs_.part_bytes + row_pos_.size() * costs_.q_bytes) * costs_.kv_heads;
    const double memory = floor_bytes_ * costs_.kv_heads / costs_.memory_bytes_per_ns;
    // The last units to start end at different times.
    const double uneven = longest / 2 * (costs_.processors - 1) / costs_.processors;
    const double busy = total * costs_.kv_heads / costs_.processors + uneven;
    choice.ns = std::max({memory, longest, busy});
  }

  const RowTree& tree_;
  const Ints& row_pos_;
  const UnitOptions& options_;
  const Costs& costs_;
  const SegmentTree nodes_;
  const int32_t max_rows_;
  double floor_bytes_;
};

}  // namespace

int32_t rows_led_by_last(const Run& run, int32_t begin, const Ints& row_pos) {
  if (row_pos[run.row_end - 1] >= run.base + run.length - 1) return run.row_end;
  int32_t best = begin;
  for (int32_t row = begin; row < run.row_end; ++row) {
    if (row_pos[row] >= row_pos[best]) best = row;
  }
  return best + 1;
}

UnitChoice choose_units(const RowTree& tree, const Ints& row_pos, const UnitOptions& options, const Costs& costs) {
  if (row_pos.empty()) return {};
  return Chooser(tree, row_pos, options, costs).choose();
}

}  // namespace tts::host
