#include "cuda/launch.h"
#include "cuda/sample_children_cut.h"
#include "cuda/sample_children_order.h"

namespace tts::cuda {

// Distinct children, or those at temperature 0; they start again in order when there are no more tokens.
template <class T>
__device__ __forceinline__ void draw_in_order(const SampleChildrenParams& p, const LogitsRow<T>& row, const Cut& cut,
                                              int width, int64_t* tokens, SampleShared& shared) {
  const int wanted = p.distinct ? int(min(int64_t(width), p.vocab)) : 1;
  int found;
  if (p.temperature == 0.0) {
    found = draw_best(Largest<T>{row}, wanted, tokens, shared);
  } else {
    const Perturbed<T> scores{row, cut, uint64_t(p.keys[blockIdx.x]), uint32_t(p.positions[blockIdx.x])};
    found = draw_best(scores, wanted, tokens, shared);
  }
  __syncthreads();
  for (int child = found + int(threadIdx.x); child < width; child += kSampleThreads)
    tokens[child] = tokens[child % found];
}

// Row blockIdx.x. The first pass over the logits reads memory, the others what the L2 keeps of it.
template <class T>
__global__ void __launch_bounds__(kSampleThreads)
    sample_children_kernel(const __grid_constant__ SampleChildrenParams p) {
  TTS_SHARED_MEMORY(memory);
  auto& shared = *reinterpret_cast<SampleShared*>(memory);
  const int64_t begin = p.offsets[blockIdx.x];
  const int width = int(p.offsets[blockIdx.x + 1] - begin);
  if (width == 0) return;
  int64_t* tokens = p.tokens + begin;
  LogitsRow<T> row{static_cast<const T*>(p.logits) + int64_t(blockIdx.x) * p.vocab, p.vocab,
                   is_aligned(p.logits, p.vocab * int64_t(sizeof(T))), p.temperature > 0.0 ? 1.0 / p.temperature : 1.0,
                   0.0f};
  row.max = find_max(row, shared);
  if (!(row.max > -INFINITY && row.max < INFINITY)) {
    for (int child = int(threadIdx.x); child < width; child += kSampleThreads)
      tokens[child] = -1, p.log_probs[begin + child] = NAN;
    return;
  }
  Cut cut;
  if (p.temperature > 0.0) cut = find_cut(row, p.top_k, p.top_p, shared);
  cut.min_weight = p.min_p;
  double total = 0.0;
  if (p.distinct || p.temperature == 0.0) {
    draw_in_order(p, row, cut, width, tokens, shared);
  } else {
    const auto key = uint64_t(p.keys[blockIdx.x]);
    total = draw_independent(row, cut, key, uint32_t(p.positions[blockIdx.x]), width, tokens, shared);
  }
  // The draw has summed exp(logit - max) already when it needed neither temperature nor restriction.
  const bool summed = total > 0.0 && p.temperature == 1.0 && cut.keeps_all();
  row.inverse_temperature = 1.0;
  if (!summed) {
    total = 0.0;
    for_vectors(row, [&](int64_t, const float(&x)[kWidth<T>]) {
      for (int i = 0; i < kWidth<T>; ++i) total += row.weight(x[i]);
    });
    total = block_reduce(total, Sum{}, shared.scratch_of<double>());
  }
  // Other threads have stored the tokens.
  __syncthreads();
  const double log_total = log(total);
  for (int child = int(threadIdx.x); child < width; child += kSampleThreads)
    p.log_probs[begin + child] = float(row.scaled(to_float(row.logits[tokens[child]])) - log_total);
}

int sample_children(const SampleChildrenParams& p, Stream stream) {
  if (p.rows == 0) return 0;
  return with_dtype(p.dtype, [&](auto type) {
    return launch(sample_children_kernel<decltype(type)>, {unsigned(p.rows)}, kSampleThreads, sizeof(SampleShared),
                  stream, p);
  });
}

}  // namespace tts::cuda
