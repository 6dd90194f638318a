// Arguments of the kernels: raw pointers and shapes, no torch header. Shapes stand beside each pointer.
#pragma once
#include <cstdint>

namespace tts {

enum class DType : int32_t { kFloat32, kBFloat16, kFloat16 };

// What a page holds: elements of the queries' dtype, or 8 bits that a float32 scale per page and kv head multiplies.
enum class Stored : int32_t { kSame, kInt8, kFloat8 };

// Columns of Plan::units and Plan::runs, see tts_kernels/plan.py.
struct Unit {
  int32_t row_begin, row_end, run_begin, run_end, part_begin;
};
struct Run {
  int32_t row_begin, row_end, page_begin, base, length;
};
struct UnitReads {
  int32_t begin, end;
};
struct Read {
  int32_t page, base, row_begin, row_end;
};

struct TreeAttentionParams {
  const void* q;                // [rows, q_heads, head_dim] dtype, head_dim contiguous
  const void* k_pages;          // [pages, kv_heads, page_size, head_dim] dtype or 8 bits, contiguous
  const void* v_pages;          // [pages, kv_heads, page_size, head_dim] dtype or 8 bits, contiguous
  const float* k_scales;        // [pages, kv_heads] of 8-bit pages, else null
  const float* v_scales;        // [pages, kv_heads] of 8-bit pages, else null
  const float* sinks;           // [q_heads] or null
  const Unit* units;            // [num_units]
  const Run* runs;              // [num_runs], for the CPU
  const UnitReads* unit_reads;  // [num_units], for CUDA
  const Read* reads;            // [*], for CUDA
  const int32_t* page_ids;      // [*]
  const int32_t* row_pos;       // [rows]
  const int32_t* join_ptr;      // [rows + 1]
  const int32_t* join_slots;    // [join_ptr[rows]]
  void* part_out;               // [num_slots, q_heads, head_dim] float32 on the CPU, dtype on CUDA
  float* part_lse;              // [num_slots, q_heads]
  int32_t* counters;            // [rows, kv_heads] for CUDA: zero between launches
  void* out;                    // [rows, q_heads, head_dim] dtype, contiguous
  float* lse;                   // [rows, q_heads]
  int64_t q_stride_row, q_stride_head;
  int64_t rows, num_units, q_heads, kv_heads, head_dim, page_size;
  int64_t max_unit_rows;
  float scale;
  float softcap;   // 0: none
  int64_t window;  // 0: none; else keys at positions (row_pos - window, row_pos]
  bool invariant;  // a row's bits must not depend on its company
  DType dtype;
  Stored stored;
};

struct LinearParams {
  const void* x;       // [rows, depth] dtype, depth contiguous
  const void* weight;  // [width, depth] dtype, contiguous
  const void* bias;    // [width] dtype or null
  void* out;           // [rows, width] dtype, contiguous
  int64_t x_stride;
  int64_t rows, width, depth;
  DType dtype;  // float32, or bfloat16
};

// RMSNorm with a weight, or SiLU of x times what another projection gave.
struct LayerParams {
  const void* x;      // [rows, width] dtype, contiguous
  const void* other;  // [width] weight, or [rows, width], contiguous
  void* out;          // [rows, width] dtype, contiguous; may be x
  int64_t rows, width;
  float eps;
  DType dtype;
};

struct MergeStatesParams {
  const void* outs;   // [parts, rows, heads, head_dim] dtype
  const float* lses;  // [parts, rows, heads]
  void* out;          // [rows, heads, head_dim] dtype
  float* lse;         // [rows, heads]
  int64_t parts, rows, heads, head_dim;
  DType dtype;
};

struct WriteKvParams {
  const void* k;         // [rows, kv_heads, head_dim], head_dim contiguous
  const void* v;         // [rows, kv_heads, head_dim], head_dim contiguous
  void* k_pages;         // [pages, kv_heads, page_size, head_dim], contiguous
  void* v_pages;         // [pages, kv_heads, page_size, head_dim], contiguous
  const int32_t* slots;  // [rows] page * page_size + offset
  float* k_scales;       // [pages, kv_heads] of 8-bit pages, else null
  float* v_scales;       // [pages, kv_heads] of 8-bit pages, else null
  int64_t k_stride_row, k_stride_head, v_stride_row, v_stride_head;
  int64_t rows, kv_heads, head_dim, page_size, element_size;
  // With 8-bit pages only; element_size is that of k and v.
  DType dtype;
  Stored stored;
};

struct CopyPagesParams {
  void* k_pages;       // [layers, pages, page_bytes]
  void* v_pages;       // [layers, pages, page_bytes]
  const int32_t* src;  // [copies]
  const int32_t* dst;  // [copies]
  int64_t layers, pages, copies, page_bytes;
};

struct SampleChildrenParams {
  const void* logits;        // [rows, vocab] dtype, contiguous
  const int64_t* keys;       // [rows] random key of the row's node, all 64 bits
  const int32_t* positions;  // [rows] counter of the draw: path position of the token to be drawn
  const int32_t* offsets;    // [rows + 1] row r draws children offsets[r] .. offsets[r + 1]
  int64_t* tokens;           // [offsets[rows]]
  float* log_probs;          // [offsets[rows]]
  int64_t rows, vocab;
  double temperature, top_p, min_p;
  int64_t top_k;
  bool distinct;
  DType dtype;
};

enum class ScoreHead : int32_t { kSoftmax, kSigmoid, kRaw };
enum class Aggregate : int32_t { kLast, kMin, kProd, kMean };

struct ScoreStepsParams {
  const void* hidden;          // [tokens, hidden_size] dtype, contiguous
  const int32_t* rows;         // [steps] which rows of hidden are step ends
  const int32_t* offsets;      // [paths + 1] path b's new steps are offsets[b] .. offsets[b + 1]
  const void* weight;          // [classes, hidden_size] dtype, contiguous
  const float* bias;           // [classes] or null
  const float* prior;          // [paths] aggregate over the earlier steps, or null
  const int32_t* prior_steps;  // [paths] how many earlier steps, or null
  float* step_scores;          // [steps]
  float* path_scores;          // [paths]
  int64_t steps, paths, classes, hidden_size, positive;
  ScoreHead head;
  Aggregate aggregate;
  DType dtype;
};

enum class SelectRule : int32_t { kTopK, kRebase };

struct SelectChildrenParams {
  const float* scores;     // [candidates]
  const int32_t* offsets;  // [groups + 1]
  const int32_t* keep;     // [groups]
  const int32_t* budget;   // [groups]
  int32_t* widths;         // [candidates]
  int64_t groups;
  SelectRule rule;
  double temperature;
};

}  // namespace tts
