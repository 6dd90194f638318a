// Runs a launch: blocks one after the other, the warps of a block each up to its next barrier, the lanes of a warp
// that are furthest behind together, so that paths which parted meet again.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>

#include "checks.h"
#include "program.h"

namespace tts::ptx {
namespace {

class Executor {
 public:
  explicit Executor(Launch& launch);
  void run();
  // The fault and where it was.
  std::string describe(const Fault& fault) const;

 private:
  void run_block(uint64_t i);
  void start_warp(Warp& w, int index);
  bool run_warps();
  void release(int barrier);
  void reduce_barrier(const std::vector<Warp*>& waiting);

  Launch& launch_;
  Program program_;
  std::mt19937_64 random_;
  std::vector<char> registers_;
  Block block_;
  Warp* current_ = nullptr;
};

Executor::Executor(Launch& launch) : launch_(launch), program_(launch), random_(launch.seed) {
  const size_t warps = (launch.threads + kLanes - 1) / kLanes;
  registers_.assign(warps * launch.register_bytes, char(0xFF));
  block_.launch = &launch_;
  // Room for the unread end of a vector.
  block_.shared.resize(launch.shared_bytes + 16);
  block_.writers.assign(launch.shared_bytes, 0);
  block_.readers.assign(launch.shared_bytes, 0);
  block_.written_at.assign(launch.shared_bytes / 16 + 1, -1);
  block_.read_at.assign(launch.shared_bytes / 16 + 1, -1);
  block_.warps.resize(warps);
}

void Executor::run() {
  std::vector<uint64_t> order(uint64_t(launch_.grid[0]) * launch_.grid[1] * launch_.grid[2]);
  std::iota(order.begin(), order.end(), 0);
  if (launch_.seed) std::shuffle(order.begin(), order.end(), random_);
  for (const uint64_t i : order) run_block(i);
}

std::string Executor::describe(const Fault& fault) const {
  if (!current_) return fault.what;
  launch_.fault_at = current_->at;
  char where[128];
  snprintf(where, sizeof where, ", block (%u, %u, %u), thread %d", block_.index[0], block_.index[1], block_.index[2],
           current_->index * kLanes + std::max(fault.lane, 0));
  return fault.what + where;
}

void Executor::run_block(uint64_t i) {
  block_.index[0] = i % launch_.grid[0];
  block_.index[1] = i / launch_.grid[0] % launch_.grid[1];
  block_.index[2] = i / launch_.grid[0] / launch_.grid[1];
  // Far from the end of its 24 bits, start over.
  if (block_.epoch > 1 << 23) {
    block_.epoch = 0;
    std::fill(block_.writers.begin(), block_.writers.end(), 0);
    std::fill(block_.readers.begin(), block_.readers.end(), 0);
  }
  block_.first_epoch = ++block_.epoch;
  std::fill(block_.shared.begin(), block_.shared.end(), char(0xFF));
  block_.pending.assign(launch_.shared_bytes / 4 + 1, 0);
  for (size_t w = 0; w < block_.warps.size(); ++w) start_warp(block_.warps[w], int(w));
  while (run_warps()) {
  }
}

void Executor::start_warp(Warp& w, int index) {
  const uint32_t threads = std::min<uint32_t>(launch_.threads - index * kLanes, kLanes);
  w.block = &block_;
  w.index = index;
  w.registers = &registers_[index * launch_.register_bytes];
  w.constants = launch_.constants;
  w.live = threads == kLanes ? kAllLanes : (1u << threads) - 1;
  w.running = w.parked = 0;
  w.barrier = -1;
  std::fill_n(w.lane_at, kLanes, 0);
  std::fill_n(w.groups, kLanes, 0);
  w.copies.clear();
  w.local.assign(launch_.local_bytes * kLanes, char(0xFF));
  uint32_t* cells = w.to<uint32_t>(0);
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint32_t bit = 1u << lane;
    const uint32_t values[kNumSpecials] = {uint32_t(index * kLanes + lane),
                                           0,
                                           0,
                                           launch_.threads,
                                           1,
                                           1,
                                           block_.index[0],
                                           block_.index[1],
                                           block_.index[2],
                                           launch_.grid[0],
                                           launch_.grid[1],
                                           launch_.grid[2],
                                           uint32_t(lane),
                                           uint32_t(index),
                                           uint32_t(block_.warps.size()),
                                           bit,
                                           bit | (bit - 1),
                                           bit - 1,
                                           ~(bit - 1),
                                           ~(bit | (bit - 1))};
    for (int i = 0; i < kNumSpecials; ++i) cells[i * kLanes + lane] = values[i];
  }
}

// Lets every warp that can run do so until it waits, then opens a barrier. False when all have left.
bool Executor::run_warps() {
  std::vector<Warp*> ready;
  for (auto& w : block_.warps) {
    if (w.live && w.barrier < 0) ready.push_back(&w);
  }
  if (launch_.seed) std::shuffle(ready.begin(), ready.end(), random_);
  for (Warp* w : ready) {
    current_ = w;
    run_warp(program_, *w);
  }
  current_ = nullptr;
  for (int id = 0; id < 16; ++id) release(id);
  const bool runs =
      std::any_of(block_.warps.begin(), block_.warps.end(), [](Warp& w) { return w.live && w.barrier < 0; });
  for (auto& w : block_.warps) {
    if (runs || !w.live) continue;
    current_ = &w;
    --w.at;
    fail(-1, "barrier %d waits for threads that wait elsewhere", w.barrier);
  }
  return runs;
}

// Opens the barrier if all it waits for are there; threads that left are waited for no longer.
void Executor::release(int barrier) {
  std::vector<Warp*> waiting;
  int threads = 0, live = 0;
  for (auto& w : block_.warps) {
    live += __builtin_popcount(w.live);
    if (!w.live || w.barrier != barrier) continue;
    waiting.push_back(&w);
    threads += __builtin_popcount(w.live);
  }
  if (waiting.empty() || threads < std::min(waiting[0]->barrier_threads, live)) return;
  if (threads == live) ++block_.epoch;
  reduce_barrier(waiting);
  for (Warp* w : waiting) w->barrier = -1;
}

// What bar.red gives to all its threads.
void Executor::reduce_barrier(const std::vector<Warp*>& waiting) {
  const Instruction& in = launch_.code[waiting[0]->at - 1];
  if (!is(in, Op::kBarred)) return;
  uint32_t hits = 0, threads = 0;
  for (Warp* w : waiting) {
    const uint32_t* values = w->from<uint32_t>(in.from[0]);
    for (int lane = 0; lane < kLanes; ++lane) {
      hits += (w->live >> lane & 1) && (values[lane] != 0) != in.combine_negated;
    }
    threads += __builtin_popcount(w->live);
  }
  const auto variant = Variant(in.variant);
  const uint32_t result = variant == Variant::kPopc ? hits : variant == Variant::kOr ? hits > 0 : hits == threads;
  for (Warp* w : waiting) std::fill_n(w->to<uint32_t>(in.to[0]), kLanes, result);
}

}  // namespace
}  // namespace tts::ptx

// 0, or 1 with a message and the instruction at fault.
extern "C" int run_launch(tts::ptx::Launch* launch) {
  std::unique_ptr<tts::ptx::Executor> executor;
  try {
    executor = std::make_unique<tts::ptx::Executor>(*launch);
    executor->run();
    return 0;
  } catch (const tts::ptx::Fault& fault) {
    const std::string text = executor ? executor->describe(fault) : fault.what;
    snprintf(launch->message, launch->message_bytes, "%s", text.c_str());
    return 1;
  }
}

extern "C" int first_unknown(const tts::ptx::Instruction* code, int64_t count) {
  return tts::ptx::first_unknown(code, count);
}
