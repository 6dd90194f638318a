#include "host/forest.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "host/message.h"

namespace tts::host {
namespace {

constexpr int32_t kMaxInt32 = std::numeric_limits<int32_t>::max();

int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

void require_same_size(const char* op, const char* argument, const Ints& values, const Ints& nodes) {
  if (values.size() != nodes.size()) {
    throw std::invalid_argument(
        message(op, ": ", argument, " must be [", nodes.size(), "] like nodes, got [", values.size(), "]"));
  }
}

void require_at_least(const char* op, const char* argument, const Ints& values, int32_t least) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < least) {
      throw std::invalid_argument(message(op, ": ", argument, "[", i, "] must be >= ", least, ", got ", values[i]));
    }
  }
}

[[noreturn]] void refuse(const char* op, const char* argument, size_t position, int32_t id, const char* reason) {
  throw std::invalid_argument(message(op, ": ", argument, "[", position, "] = ", id, " ", reason));
}

}  // namespace

Forest::Forest(int64_t num_pages, int64_t page_size) {
  if (num_pages <= 0) throw std::invalid_argument(message("Forest: num_pages must be > 0, got ", num_pages));
  if (page_size <= 0) throw std::invalid_argument(message("Forest: page_size must be > 0, got ", page_size));
  // Slots and path positions are int32.
  if (num_pages > kMaxInt32 / page_size) {
    throw std::invalid_argument(
        message("Forest: num_pages * page_size must be < 2**31, got ", num_pages, " * ", page_size));
  }
  frames_ = std::make_shared<Frames>(num_pages);
  page_size_ = static_cast<int32_t>(page_size);
  page_stride_ = 1;
  frames_->join();
}

Forest::Forest(std::shared_ptr<Frames> frames, int64_t page_size, int64_t page_stride) : frames_(std::move(frames)) {
  if (page_size <= 0) throw std::invalid_argument(message("Forest: page_size must be > 0, got ", page_size));
  if (page_stride <= 0) throw std::invalid_argument(message("Forest: page_stride must be > 0, got ", page_stride));
  if (page_stride > kMaxInt32 / page_size || page_size * page_stride > kMaxInt32 / frames_->count()) {
    throw std::invalid_argument(message("Forest: frames * page_stride * page_size must be < 2**31, got ",
                                        frames_->count(), " * ", page_stride, " * ", page_size));
  }
  page_size_ = static_cast<int32_t>(page_size);
  page_stride_ = static_cast<int32_t>(page_stride);
  frames_->join();
}

Forest::~Forest() {
  for (auto& entry : nodes_) trim(&entry.second, 0);
  frames_->leave();
}

Ints Forest::add_roots(int64_t count) {
  if (count < 0) throw std::invalid_argument(message("add_roots: n must be >= 0, got ", count));
  require_ids("add_roots", count);
  Ints roots(count);
  for (int32_t& root : roots) root = add_node(nullptr, 0, 0)->id;
  ++version_;
  return roots;
}

void Forest::reserve(const Ints& nodes, const Ints& counts) { grow("reserve", nodes, counts); }

Ints Forest::append(const Ints& nodes, const Ints& counts) {
  const std::vector<Node*> grown = grow("append", nodes, counts);
  Ints slots;
  slots.reserve(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  for (size_t i = 0; i < grown.size(); ++i) {
    Node& node = *grown[i];
    for (int32_t t = 0; t < counts[i]; ++t) {
      const int32_t offset = node.end - node.base;
      slots.push_back(node.pages[offset / page_size_] * page_size_ + offset % page_size_);
      ++node.end;
    }
  }
  return slots;
}

// The common part of reserve and append: every check, then the pages.
std::vector<Node*> Forest::grow(const char* op, const Ints& nodes, const Ints& counts) {
  require_same_size(op, "counts", counts, nodes);
  require_at_least(op, "counts", counts, 0);
  std::vector<Node*> found = resolve_held(op, "nodes", nodes);
  int64_t wanted = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i]->num_children > 0) refuse(op, "nodes", i, nodes[i], "has children: its end is fixed");
    wanted += std::max<int64_t>(0, pages_for(*found[i], counts[i]) - static_cast<int64_t>(found[i]->pages.size()));
  }
  if (wanted > free_pages()) throw OutOfPages(op, wanted, free_pages());
  for (size_t i = 0; i < found.size(); ++i) {
    const int64_t num_pages = pages_for(*found[i], counts[i]);
    while (static_cast<int64_t>(found[i]->pages.size()) < num_pages) found[i]->pages.push_back(take_page());
  }
  return found;
}

ForkResult Forest::fork(const Ints& nodes, const Ints& widths, bool keep) {
  require_same_size("fork", "widths", widths, nodes);
  require_at_least("fork", "widths", widths, 1);
  const std::vector<Node*> parents = resolve_held("fork", "nodes", nodes);
  int64_t wanted = 0;
  int64_t available = free_pages();
  for (size_t i = 0; i < parents.size(); ++i) {
    const Node& parent = *parents[i];
    if (full_end(parent) < parent.end) wanted += keep ? widths[i] : widths[i] - 1;
    if (keep) available += static_cast<int64_t>(parent.pages.size()) - pages_for(parent, 0);
  }
  require_ids("fork", std::accumulate(widths.begin(), widths.end(), int64_t{0}));
  if (wanted > available) throw OutOfPages("fork", wanted, available);
  if (keep) {
    for (Node* parent : parents) trim(parent, pages_for(*parent, 0));
  }
  ForkResult result;
  for (size_t i = 0; i < parents.size(); ++i) fork_one(parents[i], widths[i], keep, result);
  ++version_;
  return result;
}

void Forest::fork_one(Node* parent, int32_t width, bool keep, ForkResult& result) {
  const int32_t base = full_end(*parent);
  const auto private_tail = parent->pages.begin() + (base - parent->base) / page_size_;
  for (int32_t i = 0; i < width; ++i) {
    Node* child = add_node(parent, base, parent->end);
    result.children.push_back(child->id);
    if (!keep && i == width - 1) {
      child->pages.assign(private_tail, parent->pages.end());
    } else if (base < parent->end) {
      child->pages.push_back(take_page());
      result.copy_src.push_back(*private_tail);
      result.copy_dst.push_back(child->pages.back());
    }
  }
  if (keep) return;
  parent->pages.erase(private_tail, parent->pages.end());
  parent->held = false;
  --num_held_;
  settle(parent);
}

void Forest::release(const Ints& nodes) {
  // One at a time: a node still to come is held, so what goes because of another one cannot be it.
  for (Node* node : resolve_held("release", "nodes", nodes)) {
    node->held = false;
    --num_held_;
    if (node->num_children > 0) trim(node, (full_end(*node) - node->base) / page_size_);
    settle(node);
  }
  ++version_;
}

void Forest::truncate(const Ints& nodes, const Ints& counts) {
  const char* op = "truncate";
  require_same_size(op, "counts", counts, nodes);
  require_at_least(op, "counts", counts, 0);
  const std::vector<Node*> found = resolve_held(op, "nodes", nodes);
  for (size_t i = 0; i < found.size(); ++i) {
    const Node& node = *found[i];
    if (node.num_children > 0) refuse(op, "nodes", i, nodes[i], "has children: its end is fixed");
    const int32_t own = node.end - (node.parent == nullptr ? 0 : node.parent->end);
    if (counts[i] > own) {
      throw std::invalid_argument(
          message(op, ": counts[", i, "] must be at most the node's own ", own, " tokens, got ", counts[i]));
    }
  }
  for (size_t i = 0; i < found.size(); ++i) {
    found[i]->end -= counts[i];
    trim(found[i], pages_for(*found[i], 0));
  }
  ++version_;
}

// After a node lost its hold or a child: what nobody needs any more goes, from the node upwards.
void Forest::settle(Node* node) {
  while (node != nullptr && !node->held && node->num_children == 0) {
    Node* parent = node->parent;
    if (parent != nullptr) {
      --parent->num_children;
      parent->child_ids ^= node->id;
    }
    trim(node, 0);
    nodes_.erase(node->id);
    node = parent;
  }
  if (node != nullptr && !node->held && node->num_children == 1) join(node);
}

// The only child takes the node's place and its pages, which nobody else reads.
void Forest::join(Node* node) {
  Node& child = nodes_.at(node->child_ids);
  node->pages.insert(node->pages.end(), child.pages.begin(), child.pages.end());
  child.pages = std::move(node->pages);
  child.base = node->base;
  child.parent = node->parent;
  if (child.parent != nullptr) child.parent->child_ids ^= node->id ^ child.id;
  nodes_.erase(node->id);
}

Ints Forest::lengths(const Ints& nodes) const {
  Ints ends;
  ends.reserve(nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    const auto found = nodes_.find(nodes[i]);
    if (found == nodes_.end()) refuse("length", "nodes", i, nodes[i], "is not a live node");
    ends.push_back(found->second.end);
  }
  return ends;
}

const Node& Forest::node(const char* op, int64_t id) const {
  const auto found = id < 0 || id > kMaxInt32 ? nodes_.end() : nodes_.find(static_cast<int32_t>(id));
  if (found == nodes_.end()) throw std::invalid_argument(message(op, ": node = ", id, " is not a live node"));
  return found->second;
}

Ints Forest::page_table(const Node& node) const {
  Ints table((node.held ? ceil_div(node.end, page_size_) : node.end / page_size_));
  size_t table_end = table.size();
  for (const Node* owner = &node; owner != nullptr; owner = owner->parent) {
    const size_t begin = owner->base / page_size_;
    std::copy_n(owner->pages.begin(), table_end - begin, table.begin() + begin);
    table_end = begin;
  }
  return table;
}

std::vector<Node*> Forest::resolve_held(const char* op, const char* argument, const Ints& ids) {
  std::vector<Node*> found;
  found.reserve(ids.size());
  const uint64_t mark = next_mark();
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto entry = nodes_.find(ids[i]);
    if (entry == nodes_.end()) refuse(op, argument, i, ids[i], "is not a live node");
    Node& node = entry->second;
    if (node.mark == mark) refuse(op, argument, i, ids[i], "is named twice");
    if (!node.held) refuse(op, argument, i, ids[i], "is not held");
    node.mark = mark;
    found.push_back(&node);
  }
  return found;
}

Node* Forest::add_node(Node* parent, int32_t base, int32_t end) {
  const int32_t id = next_id_++;
  Node* node = &nodes_.emplace(id, Node{id, parent, base, end}).first->second;
  if (parent != nullptr) {
    ++parent->num_children;
    parent->child_ids ^= id;
  }
  ++num_held_;
  return node;
}

int64_t Forest::pages_for(const Node& node, int64_t more_tokens) const {
  return ceil_div(node.end - node.base + more_tokens, page_size_);
}

int32_t Forest::take_page() {
  peak_pages_ = std::max(peak_pages_, ++used_pages_);
  return frames_->take() * page_stride_;
}

void Forest::trim(Node* node, int64_t num_kept) {
  while (static_cast<int64_t>(node->pages.size()) > num_kept) {
    frames_->give(node->pages.back() / page_stride_);
    node->pages.pop_back();
    --used_pages_;
  }
}

void Forest::require_ids(const char* op, int64_t wanted) const {
  if (wanted > kMaxInt32 - next_id_) {
    throw std::invalid_argument(message(op, ": wanted ", wanted, " node ids, ", kMaxInt32 - next_id_, " are left"));
  }
}

}  // namespace tts::host
