// top-k and top-p as a cut of the descending order, found without sorting the row: one histogram over the distance
// from the maximum, then a selection inside the one bin where the cut falls.
#pragma once
#include "cpu/logits_row.h"
#include "cpu/task_memory.h"

namespace tts::TTS_ISA {

// A logit of the bin where a cut falls.
struct Item {
  float value;
  double weight;
};

// Where a descending walk stops: at value, of whose ties it takes the first few.
struct Stop {
  float value = -INFINITY;
  int64_t ties = INT64_MAX;

  bool before(const Stop& other) const { return value > other.value || (value == other.value && ties < other.ties); }
};

inline float middle(float a, float b, float c) {
  return a < b ? (b < c ? b : (a < c ? c : a)) : (a < c ? a : (b < c ? c : b));
}

// Walks items in descending order until they amount to need: their number or, without by_count, their weight.
inline Stop walk(Item* items, int64_t count, double need, bool by_count) {
  Stop stop;
  while (count > 0) {
    const float pivot = middle(items[0].value, items[count / 2].value, items[count - 1].value);
    int64_t above = 0, below = count;
    double above_amount = 0.0, each = 0.0;
    for (int64_t i = 0; i < below;) {
      const Item item = items[i];
      const double amount = by_count ? 1.0 : item.weight;
      if (item.value < pivot) {
        items[i] = items[--below];
        items[below] = item;
      } else if (item.value > pivot) {
        above_amount += amount;
        items[i++] = items[above];
        items[above++] = item;
      } else {
        each = amount;
        ++i;
      }
    }
    if (above > 0 && need <= above_amount) {
      count = above;
      continue;
    }
    need -= above_amount;
    const int64_t equal = below - above;
    int64_t ties = each * double(equal) <= need ? equal : int64_t(need / each) + 1;
    while (ties > 1 && double(ties - 1) * each >= need) --ties;
    stop = {pivot, ties};
    need -= each * double(equal);
    if (need <= 0.0) break;
    items += below;
    count -= below;
  }
  return stop;
}

template <class T>
class Restriction {
 public:
  Restriction(const LogitsRow<T>& row, int64_t top_k, double top_p) : row_(row) {
    fill();
    Stop stop;
    double mass = total_;
    if (top_k > 0) stop = stop_at(double(top_k), true, &mass);
    if (top_p < 1.0) {
      const Stop nucleus = stop_at(top_p * mass, false, nullptr);
      if (nucleus.before(stop)) stop = nucleus;
    }
    cut_.value = stop.value;
    cut_.last = index_of_tie(stop);
  }
  const Cut& cut() const { return cut_; }

 private:
  // 32 bins per doubling of 1 + distance, so that near and far logits are told apart at any temperature.
  static constexpr int kBins = 512, kCopies = 4;
  struct Bin {
    double weight = 0.0;
    int64_t count = 0;
  };

  VecU bin_of(Vec x) const {
    const Vec distance = Vec(row_.max) - x + Vec(1.0f);
    const VecU bin = (bit_cast<VecU>(distance) - VecU(0x3f800000u)) >> 18;
    return stdx::min(bin, VecU(kBins - 1));
  }

  void fill() {
    // Neighbouring lanes go to different copies: no addition waits for the one before it.
    Bin copies[kCopies][kBins];
    for (int64_t i = 0; i < row_.vocab; i += kLanes) {
      const Vec x = row_.at(i, row_.vocab);
      VecD weight[2];
      row_.weights(x, weight);
      uint32_t bin[kLanes];
      double amount[kLanes];
      bin_of(x).copy_to(bin, stdx::element_aligned);
      for (int half = 0; half < 2; ++half) weight[half].copy_to(amount + half * kLanesD, stdx::element_aligned);
      for (int lane = 0; lane < kLanes; ++lane) {
        Bin& into = copies[lane % kCopies][bin[lane]];
        into.weight += amount[lane];
        ++into.count;
      }
    }
    for (int bin = 0; bin < kBins; ++bin) {
      for (auto& copy : copies) bins_[bin].weight += copy[bin].weight, bins_[bin].count += copy[bin].count;
      total_ += bins_[bin].weight;
    }
  }

  // mass, if given, becomes the weight of everything up to the stop.
  Stop stop_at(double need, bool by_count, double* mass) const {
    double before = 0.0, weight_before = 0.0;
    for (int bin = 0; bin < kBins; ++bin) {
      const double amount = by_count ? double(bins_[bin].count) : bins_[bin].weight;
      if (before + amount < need || bins_[bin].count == 0) {
        before += amount;
        weight_before += bins_[bin].weight;
        continue;
      }
      TaskMemory<Item> memory(bins_[bin].count);
      const int64_t count = collect(bin, memory.items);
      const Stop stop = walk(memory.items, count, need - before, by_count);
      if (mass) *mass = weight_before + weight_of(memory.items, count, stop);
      return stop;
    }
    return {};
  }

  // The finite logits of a bin, in no particular order of value.
  int64_t collect(int bin, Item* items) const {
    int64_t count = 0;
    for (int64_t i = 0; i < row_.vocab; i += kLanes) {
      const Vec x = row_.at(i, row_.vocab);
      const auto inside = bin_of(x) == VecU(bin);
      if (stdx::none_of(inside)) continue;
      for (int lane = 0; lane < kLanes; ++lane) {
        if (inside[lane] && x[lane] > -INFINITY) items[count++] = {x[lane], row_.weight(x[lane])};
      }
    }
    return count;
  }

  static double weight_of(const Item* items, int64_t count, const Stop& stop) {
    double weight = 0.0;
    int64_t ties = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (items[i].value > stop.value || (items[i].value == stop.value && ties++ < stop.ties))
        weight += items[i].weight;
    }
    return weight;
  }

  int64_t index_of_tie(const Stop& stop) const {
    int64_t ties = 0;
    for (int64_t i = 0; stop.value > -INFINITY && i < row_.vocab; i += kLanes) {
      const Vec x = row_.at(i, row_.vocab);
      if (stdx::none_of(x == Vec(stop.value))) continue;
      for (int lane = 0; lane < kLanes; ++lane) {
        if (x[lane] == stop.value && ++ties == stop.ties) return i + lane;
      }
    }
    return INT64_MAX;
  }

  const LogitsRow<T>& row_;
  Bin bins_[kBins];
  double total_ = 0.0;
  Cut cut_;
};

}  // namespace tts::TTS_ISA
