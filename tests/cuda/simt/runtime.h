// State of the launch under way. One launch at a time, on the thread that asked for it.
#pragma once
#include <string>
#include <vector>

#include "builtins.h"
#include "fiber.h"
#include "simt.h"

namespace simt {

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
// Shared memory starts here in its own address space, past what a device keeps for itself.
constexpr uint32_t kSharedBegin = 1024;

// What lanes do together. The order of kShuffle... and kVote... is that of Shuffle and Vote.
enum class Op : int {
  kSyncWarp,
  kShuffleIndex,
  kShuffleXor,
  kShuffleDown,
  kShuffleUp,
  kBallot,
  kAny,
  kAll,
  kLoadMatrices,
  kLoadTransposed,
  kMultiplyBFloat16,
  kMultiplyHalf,
  kProductBFloat16,
  kProductHalf,
  kWaitProducts
};

// What a lane brings to an operation of its warp, and takes away.
struct Exchange {
  uint64_t bits;
  int lane, width;
  const unsigned char* row;
  uint32_t a[4], b[2];
  float c[4];
};

struct Copy {
  unsigned char* shared;
  const unsigned char* global;
  unsigned group;
  uint32_t bytes;
  bool live;
};

// A thread's share of a product of its warpgroup. a: in shared memory, or in registers.
struct Product {
  float* c;
  uint64_t a, b;
  uint32_t registers[4];
  bool a_is_shared, add, half;
  // The first that is under way of those that add to c; what c was.
  bool is_first;
  float kept[32];
};

struct Fiber {
  Context context;
  Dim index;
  unsigned thread, warp, lane;
  Op op;
  unsigned mask;
  Exchange exchange;
  // Those that have not landed start at copies[landed].
  std::vector<Copy> copies;
  size_t landed;
  unsigned committed;
  // That which the warpgroup is about to start, and those under way.
  Product product;
  std::vector<Product> products;
  size_t products_committed;
  bool products_begun;
};

struct Warp {
  // Bit l: lane l. A lane that is in none of the others is running or, when not alive, has exited.
  unsigned ready, alive, meeting, at_barrier;
  // What the first lane of those meeting wants, and whether another wants something else.
  Op op;
  unsigned mask;
  bool mixed;
};

struct Block {
  Dim index, size, grid;
  unsigned threads, live, arrived;
  unsigned ready_warps;
  // Of each warpgroup: how many threads wait for the others, and the first of them.
  unsigned met[kMaxThreads / 128];
  const Fiber* first_met[kMaxThreads / 128];
  unsigned char* shared;
  uint32_t shared_bytes;
  const void* params;
  void* kernel;
  void (*call)(void* kernel, const void* params);
};

extern Fiber fibers[kMaxThreads];
extern Warp warps[kMaxThreads / kLanes];
extern Block block;
// Null when no thread of a kernel is running.
extern Fiber* current;

struct Options {
  bool early = false, counts = false;
  unsigned seed = 0;
  int capability = 90;
};
extern Options options;
extern Launch* record;

// Keeps the message, with the thread that is running, and abandons the launch.
[[noreturn]] void fail(const std::string& what);
// Keeps the message of the first race of a launch, which goes on.
void note_race(const std::string& what);
// The running thread stops until `release` names it.
void block_current();
void release(unsigned warp, unsigned lanes);
// Those of a warpgroup that are under way.
void forget_products(Fiber& f);
unsigned random_number();
const char* name_of(Op op);

}  // namespace simt
