#include "meter.h"

#include <algorithm>
#include <vector>

#include "runtime.h"

namespace simt {
namespace {

// One instruction of a warp.
struct Group {
  uint64_t address[kLanes];
  unsigned lanes;
};

// One place of the program, for one kind of access, in one warp.
struct Site {
  uint32_t passed[kLanes] = {};
  std::vector<Group> groups;
  size_t used = 0;
};

struct Key {
  const void* site;
  // Access, path or -1 for global memory, allocation, bytes per lane.
  int access, path, allocation;
  uint32_t size;

  bool operator==(const Key& o) const {
    return site == o.site && access == o.access && path == o.path && allocation == o.allocation && size == o.size;
  }
  size_t hash() const {
    const uint64_t mix =
        reinterpret_cast<uintptr_t>(site) + uint64_t(access + 4 * path + 64 * allocation + 8192 * size);
    return size_t(mix * 0x9e3779b97f4a7c15u >> 32);
  }
};

constexpr int kGlobal = -1;

// Open addressing; place 0 .. n - 1 of the keys is also the index of the sites of each warp.
std::vector<Key> keys;
std::vector<int> table(1024, -1);
std::vector<Site> sites[kMaxThreads / kLanes];
std::vector<int> active[kMaxThreads / kLanes];

void insert(int index) {
  size_t at = keys[size_t(index)].hash() & (table.size() - 1);
  while (table[at] >= 0) at = (at + 1) & (table.size() - 1);
  table[at] = index;
}

int index_of(const Key& key) {
  const size_t last = table.size() - 1;
  for (size_t at = key.hash() & last; table[at] >= 0; at = (at + 1) & last)
    if (keys[size_t(table[at])] == key) return table[at];
  keys.push_back(key);
  if (2 * keys.size() > table.size()) {
    table.assign(2 * table.size(), -1);
    for (size_t i = 0; i + 1 < keys.size(); ++i) insert(int(i));
  }
  insert(int(keys.size() - 1));
  return int(keys.size() - 1);
}

void add(const Key& key, uint64_t address) {
  const unsigned w = current->warp, lane = current->lane;
  const auto index = size_t(index_of(key));
  if (sites[w].size() <= index) sites[w].resize(keys.size());
  Site& site = sites[w][index];
  if (site.used == 0) active[w].push_back(int(index));
  const size_t n = site.passed[lane]++;
  if (n == site.used) {
    if (n == site.groups.size()) site.groups.emplace_back();
    site.groups[site.used++].lanes = 0;
  }
  site.groups[n].address[lane] = address;
  site.groups[n].lanes |= 1u << lane;
}

// Distinct values of address / unit among these lanes of the group, sorted.
size_t distinct(const Group& group, unsigned lanes, uint64_t unit, uint64_t (&out)[kLanes]) {
  size_t n = 0;
  for (unsigned rest = lanes & group.lanes; rest != 0; rest &= rest - 1) {
    const uint64_t value = group.address[__builtin_ctz(rest)] / unit;
    if (n == 0 || out[n - 1] != value) out[n++] = value;
  }
  std::sort(out, out + n);
  return size_t(std::unique(out, out + n) - out);
}

void count_global(const Key& key, const Group& group) {
  Traffic& t = record->traffic[key.allocation];
  const auto lanes = uint64_t(__builtin_popcount(group.lanes));
  uint64_t sectors[kLanes];
  const size_t n = distinct(group, kAllLanes, 32, sectors);
  if (key.access == int(Access::kAtomic)) {
    t.atomics += lanes;
    return;
  }
  const bool loads = key.access == int(Access::kLoad);
  (loads ? t.load_bytes : t.store_bytes) += lanes * key.size;
  (loads ? t.load_sectors : t.store_sectors) += n;
  ++(loads ? t.load_requests : t.store_requests);
  if (key.size == 16) ++t.wide_requests;
}

void count_shared(const Key& key, const Group& group) {
  SharedTraffic& t = record->shared[key.path];
  const uint64_t bytes = uint64_t(__builtin_popcount(group.lanes)) * key.size;
  if (key.access != int(Access::kStore)) t.load_bytes += bytes;
  if (key.access != int(Access::kLoad)) t.store_bytes += bytes;
  ++t.requests;
  // Lanes that are served together: those whose words fill the 32 banks.
  const unsigned together = key.size == 16 ? 8 : key.size == 8 ? 16 : 32;
  for (unsigned first = 0; first < kLanes; first += together) {
    const unsigned phase = (together == 32 ? kAllLanes : (1u << together) - 1) << first;
    if ((group.lanes & phase) == 0) continue;
    // Accesses wider than a word take whole groups of banks, so that conflicts are those of the groups.
    const unsigned unit = std::max(key.size, 4u), columns = 128 / unit;
    uint64_t found[kLanes];
    unsigned depth[kLanes] = {}, deepest = 0;
    const size_t n = distinct(group, phase, unit, found);
    for (size_t i = 0; i < n; ++i) deepest = std::max(deepest, ++depth[found[i] % columns]);
    t.wavefronts += deepest;
    ++t.ideal;
  }
}

}  // namespace

void meter_global(Access access, int allocation, uint64_t address, uint32_t size, const void* site) {
  add({site, int(access), kGlobal, allocation, size}, address);
}

void meter_shared(Access access, Path path, uint32_t offset, uint32_t size, const void* site) {
  add({site, int(access), int(path), 0, size}, offset);
}

void meter_flush(unsigned warp) {
  for (const int index : active[warp]) {
    Site& site = sites[warp][size_t(index)];
    const Key& key = keys[size_t(index)];
    for (size_t i = 0; i < site.used; ++i)
      key.path == kGlobal ? count_global(key, site.groups[i]) : count_shared(key, site.groups[i]);
    std::fill_n(site.passed, kLanes, 0);
    site.used = 0;
  }
  active[warp].clear();
}

void meter_flush_all() {
  for (unsigned w = 0; w * kLanes < block.threads; ++w) meter_flush(w);
}

}  // namespace simt
