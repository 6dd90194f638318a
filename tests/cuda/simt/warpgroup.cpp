// What the four warps of a warpgroup do together: products that read shared memory by themselves and end when they are
// waited for.
#include <limits>

#include "cuda/ptx.h"
#include "memory.h"
#include "meter.h"
#include "runtime.h"
#include "shadow.h"

namespace simt {
namespace {

constexpr unsigned kGroup = 128;
using Matrix = float[64][16];

template <class Body>
void for_threads(Fiber* threads, Body body) {
  for (unsigned t = 0; t < kGroup; ++t) body(threads[t]);
}

void expect_same(const Fiber& a, const Fiber& b) {
  const auto text = [](const Fiber& f) {
    char operands[64];
    snprintf(operands, sizeof operands, " of 0x%llx and 0x%llx", static_cast<unsigned long long>(f.product.a),
             static_cast<unsigned long long>(f.product.b));
    return "thread " + std::to_string(f.thread) + " is at " + name_of(f.op) + operands;
  };
  const bool same = a.op == b.op && a.product.a == b.product.a && a.product.b == b.product.b &&
                    a.product.add == b.product.add && a.product.a_is_shared == b.product.a_is_shared;
  if (!same) fail("divergent: " + text(a) + ", " + text(b));
}

template <class Complete>
void meet_group(Op op, Complete complete) {
  Fiber& me = *current;
  const unsigned group = me.thread / kGroup;
  Fiber* threads = &fibers[group * kGroup];
  me.op = op;
  me.mask = 0;
  if ((group + 1) * kGroup > block.threads)
    fail(std::string(name_of(op)) + " in a warpgroup of fewer than 128 threads");
  if (block.met[group] == 0) block.first_met[group] = &me;
  else expect_same(*block.first_met[group], me);
  if (++block.met[group] < kGroup) return block_current();
  block.met[group] = 0;
  complete(threads);
  for (unsigned warp = group * 4; warp < group * 4 + 4; ++warp) {
    if (options.counts) meter_flush(warp);
    release(warp, warp == me.warp ? kAllLanes & ~(1u << me.lane) : kAllLanes);
  }
}

float value(uint32_t bits, bool half) {
  if (half) return float_of_half(uint16_t(bits));
  bits <<= 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Elements of 16 bytes at an address before the swizzle.
void read_chunk(uint32_t address, bool half, float* to, int step) {
  const unsigned char* from = check_operand(address ^ (address >> 3 & 0x70));
  for (int e = 0; e < 8; ++e) {
    uint16_t bits;
    memcpy(&bits, from + 2 * e, sizeof bits);
    to[e * step] = value(bits, half);
  }
}

// 64 rows of 16 elements that are summed over. transposed: as lines of 64 for each of the 16.
void read_matrix(uint64_t descriptor, bool transposed, bool half, Matrix& to) {
  const uint32_t begin = uint32_t(descriptor & 0x3fff) << 4, stride = uint32_t(descriptor >> 32 & 0x3fff) << 4;
  if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0)
    fail("wgmma: a descriptor of another layout than a swizzle of 128 bytes");
  const uint32_t lines = transposed ? 16 : 64;
  for (uint32_t line = 0; line < lines; ++line)
    for (uint32_t chunk = 0; chunk < 128 / lines; ++chunk) {
      const uint32_t address = begin + line / 8 * stride + line % 8 * 128 + chunk * 16;
      if (transposed) read_chunk(address, half, &to[8 * chunk][line], 16);
      else read_chunk(address, half, &to[line][8 * chunk], 1);
    }
}

// The fragments are those of mma, 16 rows a warp.
void read_registers(Fiber* threads, size_t number, Matrix& to) {
  for_threads(threads, [&](const Fiber& f) {
    const Product& p = f.products[number];
    for (int i = 0; i < 4; ++i) {
      const unsigned row = f.warp % 4 * 16 + f.lane / 4 + 8 * (i & 1), column = f.lane % 4 * 2 + 8 * (i >> 1);
      to[row][column] = value(p.registers[i] & 0xffff, p.half);
      to[row][column + 1] = value(p.registers[i] >> 16, p.half);
    }
  });
}

void read_operands(Fiber* threads, size_t number, Matrix& a, Matrix& b) {
  const Product& p = threads[0].products[number];
  if (p.a_is_shared) read_matrix(p.a, false, p.half, a);
  else read_registers(threads, number, a);
  read_matrix(p.b, !p.a_is_shared, p.half, b);
}

// Products of 16-bit operands are exact in double; the sum is rounded once, to float.
void multiply(Fiber* threads, size_t number) {
  static Matrix a, b;
  read_operands(threads, number, a, b);
  for_threads(threads, [&](Fiber& f) {
    Product& p = f.products[number];
    for (int i = 0; i < 32; ++i) {
      const unsigned row = f.warp % 4 * 16 + f.lane / 4 + 8 * (i >> 1 & 1), column = i / 4 * 8 + f.lane % 4 * 2 + i % 2;
      double sum = p.add ? p.c[i] : 0.0;
      for (int k = 0; k < 16; ++k) sum += double(a[row][k]) * b[column][k];
      p.c[i] = float(sum);
    }
  });
}

// Until they are waited for, sums are nobody's business.
void hide_sums(Fiber& f) {
  Product& p = f.products.back();
  for (const Product& other : f.products)
    if (&other != &p && other.c == p.c) return;
  memcpy(p.kept, p.c, sizeof p.kept);
  p.is_first = true;
  for (int i = 0; i < 32; ++i) p.c[i] = std::numeric_limits<float>::quiet_NaN();
}

void start_product(Fiber* threads) {
  for_threads(threads, [](Fiber& f) { f.products.push_back(f.product); });
  const size_t number = threads[0].products.size() - 1;
  if (options.early) return multiply(threads, number);
  // What is not there yet when a product starts is missing, what is gone when it ends as well.
  static Matrix a, b;
  read_operands(threads, number, a, b);
  for_threads(threads, hide_sums);
}

void end_products(Fiber* threads) {
  const size_t count = threads[0].products.size();
  for_threads(threads, [&](const Fiber& f) {
    if (f.products_committed != count) fail("wgmma.wait_group before products that were not committed");
  });
  for (size_t i = 0; i < count && !options.early; ++i) {
    for_threads(threads, [&](Fiber& f) {
      Product& p = f.products[i];
      if (p.is_first) memcpy(p.c, p.kept, sizeof p.kept);
    });
    multiply(threads, i);
  }
  for_threads(threads, forget_products);
}

}  // namespace

void forget_products(Fiber& f) {
  f.products.clear();
  f.products_committed = 0;
  f.products_begun = false;
}

void publish_to_products() { shadow_publish(); }

void begin_products() { current->products_begun = true; }

void commit_products() { current->products_committed = current->products.size(); }

void wait_products() {
  current->product = {};
  meet_group(Op::kWaitProducts, end_products);
}

void multiply_warpgroup(float* c, const uint32_t* registers, uint64_t a, uint64_t b, bool add, bool half) {
  Fiber& me = *current;
  if (!me.products_begun) fail("wgmma without wgmma.fence since the last wgmma.wait_group");
  me.product = {};
  me.product.c = c;
  me.product.a_is_shared = registers == nullptr;
  if (registers != nullptr) memcpy(me.product.registers, registers, sizeof me.product.registers);
  me.product.a = a;
  me.product.b = b;
  me.product.add = add;
  me.product.half = half;
  meet_group(half ? Op::kProductHalf : Op::kProductBFloat16, start_product);
}

}  // namespace simt
