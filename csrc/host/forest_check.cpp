#include <algorithm>
#include <functional>
#include <numeric>
#include <unordered_set>

#include "host/forest.h"
#include "host/message.h"

namespace tts::host {
namespace {

void expect(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error("check: " + what);
}

}  // namespace

void Forest::check() const {
  check_pages();
  std::unordered_set<const Node*> alive;
  for (const auto& entry : nodes_) alive.insert(&entry.second);
  std::unordered_map<int32_t, Ints> live_children;
  int32_t num_held = 0;
  for (const auto& [id, node] : nodes_) {
    num_held += node.held;
    if (node.parent == nullptr) continue;
    // By address: the parent's fields may not be read before it is known to be alive.
    expect(alive.count(node.parent) == 1, message("node ", id, " has a freed parent"));
    live_children[node.parent->id].push_back(id);
  }
  expect(num_held == num_held_, message(num_held, " nodes are held, counted ", num_held_));
  for (const auto& [id, node] : nodes_) {
    expect(id == node.id && id < next_id_, message("node ", id, " is stored as ", node.id, ", next id ", next_id_));
    check_node(node, live_children[id]);
  }
}

void Forest::check_pages() const {
  constexpr int32_t kNobody = -1;
  constexpr int32_t kFreeList = -2;
  Ints owners(num_pages(), kNobody);
  const auto own = [&](int32_t frame, int32_t owner) {
    expect(frame >= 0 && frame < num_pages(), message("owner ", owner, " has page ", frame, " of ", num_pages()));
    expect(owners[frame] == kNobody,
           message("page ", frame, " belongs to ", owners[frame], " and ", owner, " (-2: free list)"));
    owners[frame] = owner;
  };
  for (int32_t frame : frames_->free()) own(frame, kFreeList);
  int32_t used = 0;
  for (const auto& [id, node] : nodes_) {
    for (int32_t page : node.pages) {
      expect(page % page_stride_ == 0, message("node ", id, " has page ", page, " of stride ", page_stride_));
      own(page / page_stride_, id);
      ++used;
    }
  }
  expect(used == used_pages_, message(used, " pages are used, counted ", used_pages_));
  expect(used <= peak_pages_, message(used, " pages are used, peak is ", peak_pages_));
  // Frames without an owner here may belong to another forest.
  const auto lost = std::find(owners.begin(), owners.end(), kNobody);
  expect(frames_->shared() || lost == owners.end(),
         message("page ", lost - owners.begin(), " has no owner and is not free"));
}

void Forest::check_node(const Node& node, const Ints& children) const {
  const std::string name = message("node ", node.id, ": ");
  const int32_t live_children = static_cast<int32_t>(children.size());
  expect(node.num_children == live_children,
         message(name, live_children, " live children, counted ", node.num_children));
  expect(node.child_ids == std::accumulate(children.begin(), children.end(), 0, std::bit_xor<>()),
         message(name, "the ids of its children are not those counted"));
  expect(node.held || live_children > 1, message(name, "neither held nor of two children, but alive"));
  expect(node.base % page_size_ == 0 && 0 <= node.base && node.base <= node.end,
         message(name, "base ", node.base, ", end ", node.end, ", page size ", page_size_));
  const Node* parent = node.parent;
  expect(node.base == (parent ? full_end(*parent) : 0),
         message(name, "base ", node.base, " is not where the parent's full pages end"));
  expect(!parent || node.end >= parent->end, message(name, "shorter than its parent"));
  const int64_t num_pages = static_cast<int64_t>(node.pages.size());
  const int64_t used = node.held ? pages_for(node, 0) : (full_end(node) - node.base) / page_size_;
  expect(num_pages >= used, message(name, num_pages, " pages, ", used, " needed"));
  // Only a node that can still grow may keep a reserve.
  expect(num_pages == used || (node.held && live_children == 0),
         message(name, num_pages, " pages, ", used, " may be kept"));
}

}  // namespace tts::host
