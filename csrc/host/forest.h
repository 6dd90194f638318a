// The page table of many trees over one pool of page ids. Integers only: the KV itself lives in the caller's tensors.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace tts::host {

using Ints = std::vector<int32_t>;

class OutOfPages : public std::runtime_error {
 public:
  OutOfPages(const std::string& op, int64_t wanted, int64_t free);
  const int64_t wanted;
  const int64_t free;
};

// Pieces of memory, each of which holds one page of any of the forests that share them.
class Frames {
 public:
  explicit Frames(int64_t count);
  int32_t take();
  void give(int32_t frame) { free_.push_back(frame); }
  int32_t count() const { return count_; }
  const Ints& free() const { return free_; }
  int32_t peak() const { return peak_; }
  // How many forests take from these frames.
  void join() { ++num_forests_; }
  void leave() { --num_forests_; }
  bool shared() const { return num_forests_ > 1; }

 private:
  int32_t count_;
  int32_t peak_ = 0;
  int32_t num_forests_ = 0;
  Ints free_;
};

// A run of tokens. Positions are counted from the root of the path: the node's own pages start at `base`, which is
// page aligned, and its path is `end` tokens long. Tokens in [base, end of the parent) are the node's own copy of the
// parent's partial page. Descendants read [base, full_end(node)) only: full pages, so sharing never needs a mask.
// A node that nobody holds has two children at least: there are fewer of them than held ones, however long the past.
struct Node {
  int32_t id;
  Node* parent;
  int32_t base;
  int32_t end;
  bool held = true;
  int32_t num_children = 0;
  // exclusive or of the children's ids: that of the only child, once the others are gone
  int32_t child_ids = 0;
  // used pages first, reserved ones behind
  Ints pages = {};
  // Scratch: the last call that met this node (Forest::next_mark), and where that call put its pages and itself.
  uint64_t mark = 0;
  int32_t page_begin = 0;
  int32_t level = 0;
};

struct ForkResult {
  Ints children;
  Ints copy_src;
  Ints copy_dst;
};

// Every method is atomic: when it throws, nothing has changed. Bad arguments throw std::invalid_argument.
class Forest {
 public:
  Forest(int64_t num_pages, int64_t page_size);
  // Several forests may take from the same frames. Frame f is page f * page_stride of this one.
  Forest(std::shared_ptr<Frames> frames, int64_t page_size, int64_t page_stride);
  // Its pages go back to the frames.
  ~Forest();
  Forest(const Forest&) = delete;
  Forest& operator=(const Forest&) = delete;

  Ints add_roots(int64_t count);
  // Makes room for counts[i] more tokens in nodes[i].
  void reserve(const Ints& nodes, const Ints& counts);
  // Advances the ends and returns one slot (page * page_size + offset) per token, in order of nodes, then tokens.
  Ints append(const Ints& nodes, const Ints& counts);
  // keep=false drops the parents' hold, and the last child of each takes over its partial page and its reserve.
  // keep=true leaves the parent its partial page, copies it for every child and gives the reserve back.
  ForkResult fork(const Ints& nodes, const Ints& widths, bool keep);
  void release(const Ints& nodes);
  // Takes the last counts[i] tokens of nodes[i] back, as if they had not been appended, and gives up their reserve.
  // They must lie behind the parent's end, which moves up as nodes beside and above go: no other node sees them.
  void truncate(const Ints& nodes, const Ints& counts);

  Ints lengths(const Ints& nodes) const;
  const Node& node(const char* op, int64_t id) const;
  // Pages of the whole path. A node that is no longer held has lost its partial page: its path ends at full_end.
  Ints page_table(const Node& node) const;
  // The nodes of a batch, all different and all held.
  std::vector<Node*> resolve_held(const char* op, const char* argument, const Ints& ids);
  // A value that no node is marked with yet: tells in O(1) whether a call has met a node before.
  uint64_t next_mark() { return ++mark_; }
  int32_t full_end(const Node& node) const { return node.end / page_size_ * page_size_; }

  // Recomputes everything from scratch and throws std::runtime_error on the first inconsistency.
  void check() const;

  int32_t num_pages() const { return frames_->count(); }
  int32_t page_size() const { return page_size_; }
  int32_t page_stride() const { return page_stride_; }
  int32_t free_pages() const { return static_cast<int32_t>(frames_->free().size()); }
  int32_t used_pages() const { return used_pages_; }
  int32_t peak_pages() const { return peak_pages_; }
  int32_t num_nodes() const { return static_cast<int32_t>(nodes_.size()); }
  int32_t num_held() const { return num_held_; }
  // Changes whenever a plan may no longer be valid.
  int64_t version() const { return version_; }

 private:
  Node* add_node(Node* parent, int32_t base, int32_t end);
  std::vector<Node*> grow(const char* op, const Ints& nodes, const Ints& counts);
  void fork_one(Node* parent, int32_t width, bool keep, ForkResult& result);
  void settle(Node* node);
  void join(Node* node);
  int64_t pages_for(const Node& node, int64_t more_tokens) const;
  int32_t take_page();
  void trim(Node* node, int64_t num_kept);
  void require_ids(const char* op, int64_t wanted) const;
  void check_pages() const;
  void check_node(const Node& node, const Ints& children) const;

  std::shared_ptr<Frames> frames_;
  int32_t page_size_;
  int32_t page_stride_;
  int32_t used_pages_ = 0;
  int32_t peak_pages_ = 0;
  int32_t next_id_ = 0;
  int32_t num_held_ = 0;
  int64_t version_ = 0;
  uint64_t mark_ = 0;
  // Elements of an unordered_map stay where they are: Node::parent and a Plan point at them.
  std::unordered_map<int32_t, Node> nodes_;
};

}  // namespace tts::host
