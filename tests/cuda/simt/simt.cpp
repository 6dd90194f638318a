// Starts grids and decides which thread runs next.
#include "simt.h"

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <unordered_map>

#include "memory.h"
#include "meter.h"
#include "runtime.h"
#include "shadow.h"

namespace simt {

Fiber fibers[kMaxThreads];
Warp warps[kMaxThreads / kLanes];
Block block;
Fiber* current = nullptr;
Options options;
Launch* record = nullptr;

namespace {

Context caller;
SimtExecutor executor = nullptr;
std::deque<Launch> launches;
std::string error, race;
bool failed = false;
uint64_t random_state;

std::string text(const Dim& d) {
  return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
}

std::string place() {
  std::string where = std::string(record->kernel) + ", block " + text(block.index);
  if (current != nullptr) where += ", thread " + std::to_string(current->thread);
  return where + ": ";
}

unsigned any_bit(unsigned bits) {
  for (unsigned skip = random_number() % unsigned(__builtin_popcount(bits)); skip > 0; --skip) bits &= bits - 1;
  return unsigned(__builtin_ctz(bits));
}

// A thread that can run, or null.
Fiber* next_fiber() {
  if (block.ready_warps == 0) return nullptr;
  unsigned w = current == nullptr ? 0 : current->warp;
  if (options.seed != 0) w = any_bit(block.ready_warps);
  else if (warps[w].ready == 0) w = unsigned(__builtin_ctz(block.ready_warps));
  Warp& warp = warps[w];
  const unsigned lane = options.seed != 0 ? any_bit(warp.ready) : unsigned(__builtin_ctz(warp.ready));
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) block.ready_warps &= ~(1u << w);
  return &fibers[w * kLanes + lane];
}

void run_next(Context& from) {
  Fiber* next = next_fiber();
  current = next;
  Context& to = next == nullptr ? caller : next->context;
  if (&to != &from) switch_context(from, to);
}

void pass_barrier() {
  block.arrived = 0;
  for (unsigned w = 0; w * kLanes < block.threads; ++w) {
    const unsigned lanes = warps[w].at_barrier;
    warps[w].at_barrier = 0;
    release(w, lanes);
  }
  shadow_barrier();
  if (options.counts) meter_flush_all();
}

void fiber_main() {
  enter_context(current->context);
  block.call(block.kernel, block.params);
  Warp& warp = warps[current->warp];
  warp.alive &= ~(1u << current->lane);
  --block.live;
  if (block.live > 0 && block.arrived == block.live) pass_barrier();
  Context& mine = current->context;
  run_next(mine);
  // A thread that has exited is never resumed.
  abort();
}

void start_fibers() {
  static unsigned char* stacks = reserve_stacks(kMaxThreads);
  set_stacks(stacks, kMaxThreads * kStackBytes);
  block.live = block.threads;
  block.arrived = 0;
  block.ready_warps = 0;
  for (unsigned t = 0; t < block.threads; ++t) {
    Fiber& f = fibers[t];
    f.context.stack = stacks + t * kStackBytes;
    f.index = {t, 0, 0};
    f.thread = t;
    f.warp = t / kLanes;
    f.lane = t % kLanes;
    f.copies.clear();
    f.landed = f.committed = 0;
    forget_products(f);
    // Stacks that start at the same place of a page would share few lines of the cache.
    start_context(f.context, 320 * (t % 64), fiber_main);
  }
  for (unsigned w = 0; w * kLanes < block.threads; ++w) {
    const unsigned lanes = block.threads - w * kLanes;
    warps[w] = {};
    warps[w].alive = lanes >= kLanes ? kAllLanes : (1u << lanes) - 1;
    release(w, warps[w].alive);
  }
}

std::string waits_at(const Fiber& f) {
  const std::string who = "thread " + std::to_string(f.thread);
  const Warp& warp = warps[f.warp];
  if ((warp.alive >> f.lane & 1) == 0) return who + " has exited";
  if ((warp.at_barrier >> f.lane & 1) != 0) return who + " waits at __syncthreads";
  const unsigned missing = f.mask & ~warp.meeting;
  const std::string at = who + " waits at " + name_of(f.op);
  return missing == 0 ? at : at + " for lane " + std::to_string(__builtin_ctz(missing));
}

// Two threads that wait for different things.
std::string deadlock() {
  std::string first, all = "deadlock";
  for (unsigned t = 0; t < block.threads; ++t) {
    const std::string kind = waits_at(fibers[t]).substr(waits_at(fibers[t]).find(' ', 7));
    if (kind == first) continue;
    all += (first.empty() ? ": " : "; ") + waits_at(fibers[t]);
    if (!first.empty()) break;
    first = kind;
  }
  return all;
}

bool run_block() {
  memset(block.shared, 0xff, block.shared_bytes);
  shadow_start_block();
  start_fibers();
  run_next(caller);
  if (!failed && block.live > 0) {
    failed = true;
    error = place() + deadlock();
  }
  meter_flush_all();
  return !failed;
}

// What cudaLaunchKernel would refuse.
const char* why_not(const Dim& grid, int threads, size_t shared_bytes) {
  const int cc = options.capability;
  const size_t most = cc == 90 || cc == 100 || cc == 103 ? 227 : cc == 80 || cc == 87 ? 163 : 99;
  if (threads < 1 || threads > int(kMaxThreads)) return "threads per block must be 1 to 1024";
  if (grid.x < 1 || grid.y < 1 || grid.z < 1) return "the grid is empty";
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return "the grid is too large";
  return shared_bytes > most * 1024 ? "more shared memory than the device has" : nullptr;
}

// The kernel's own name, without namespace and template arguments.
const char* short_name(const char* symbol) {
  static std::unordered_map<std::string, std::string> names;
  auto [found, is_new] = names.try_emplace(symbol);
  if (is_new) {
    char* full = abi::__cxa_demangle(symbol, nullptr, nullptr, nullptr);
    std::string name = full == nullptr ? symbol : full;
    free(full);
    name = name.substr(0, name.find_first_of("<("));
    found->second = name.substr(name.find_last_of(": ") + 1);
  }
  return found->second.c_str();
}

int finish() {
  if (!failed && record->races > 0) {
    error = race + " (" + std::to_string(record->races) + " races in this launch)";
    failed = true;
  }
  return failed ? 1 : 0;
}

int run_grid(const Dim& grid) {
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        block.index = {x, y, z};
        if (!run_block()) return finish();
      }
  return finish();
}

}  // namespace

void fail(const std::string& what) {
  failed = true;
  error = place() + what;
  Context& mine = current->context;
  current = nullptr;
  switch_context(mine, caller);
  abort();
}

void note_race(const std::string& what) {
  if (record->races++ == 0) race = place() + what;
}

void block_current() { run_next(current->context); }

void release(unsigned warp, unsigned lanes) {
  warps[warp].ready |= lanes;
  if (lanes != 0) block.ready_warps |= 1u << warp;
}

unsigned random_number() {
  // A linear congruence modulo 2^64; its upper half is random enough.
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return unsigned(random_state >> 32);
}

Dim thread_index() { return current->index; }
Dim block_index() { return block.index; }
Dim block_size() { return block.size; }
Dim grid_size() { return block.grid; }
unsigned char* shared_memory() { return block.shared; }

void sync_block() {
  Fiber& me = *current;
  if (++block.arrived == block.live) return pass_barrier();
  warps[me.warp].at_barrier |= 1u << me.lane;
  block_current();
}

int launch(void* kernel, void (*call)(void*, const void*), Dim grid, int threads, size_t shared_bytes,
           const void* params, size_t params_size) {
  Dl_info info;
  const char* symbol = dladdr(kernel, &info) != 0 && info.dli_sname != nullptr ? info.dli_sname : "";
  // Outside of a recording only the newest launch is kept.
  if (!recording()) launches.clear();
  launches.push_back(
      {short_name(symbol), symbol, {grid.x, grid.y, grid.z}, uint64_t(threads), shared_bytes, 0, {}, {}});
  record = &launches.back();
  failed = false;
  const char* refused = *symbol == 0 ? "the kernel has no symbol of its own" : why_not(grid, threads, shared_bytes);
  if (refused != nullptr) {
    error = std::string(record->kernel) + ": " + refused;
    return 1;
  }
  if (executor != nullptr) {
    const uint32_t blocks[3] = {grid.x, grid.y, grid.z};
    return executor(symbol, blocks, uint32_t(threads), shared_bytes, params, params_size);
  }
  block = {};
  block.size = {unsigned(threads), 1, 1};
  block.grid = grid;
  block.threads = unsigned(threads);
  block.shared = shadow_memory();
  block.shared_bytes = uint32_t(shared_bytes);
  block.params = params;
  block.kernel = kernel;
  block.call = call;
  random_state = options.seed;
  return run_grid(grid);
}

}  // namespace simt

namespace tts::cuda {

int compute_capability() { return simt::options.capability; }
// The interpreter of PTX does not know them.
bool has_warpgroups() { return simt::options.capability == 90 && simt::executor == nullptr; }
const char* error_text(int) { return simt::error.c_str(); }

}  // namespace tts::cuda

extern "C" {

void simt_set_executor(SimtExecutor with) { simt::executor = with; }
void simt_set_mode(int early, unsigned seed) {
  simt::options.early = early != 0;
  simt::options.seed = seed;
}
void simt_count(int on) { simt::options.counts = on != 0; }
void simt_set_capability(int capability) { simt::options.capability = capability; }
void simt_allocations(const simt::Allocation* allocations, int count) {
  simt::set_allocations(allocations, count);
  simt::launches.clear();
  simt::error.clear();
}
const char* simt_error() { return simt::error.c_str(); }
int simt_num_launches() { return int(simt::launches.size()); }
const simt::Launch* simt_launch(int i) { return &simt::launches.at(size_t(i)); }
}
