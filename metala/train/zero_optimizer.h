// AdamW whose state is divided among ranks: ZeRO stage 1 (Rajbhandari et al., SC 2020,
// arXiv:1910.02054).
//
// Parameters lie end to end in buckets, in the order in which a backward pass finishes their
// gradients: the last layer's first. Rank r of n owns the r-th part of n of every bucket: its
// moments and, beside bf16, its f32 weights. In a step
//
//   backward pass      a bucket whose gradients are final is reduce-scattered while the pass goes
//                      on: each rank receives the sum of what it owns
//   global_norm        of all owned gradients, summed over ranks
//   update             AdamW on what is owned, bucket by bucket, each gathered from all ranks as
//                      soon as it is updated
//
// so a rank sends and receives 2 (n - 1) / n times the parameters in a step, as a plain all-reduce
// would, and keeps 1 / n of the optimizer's memory. Sums are over ranks: what is minimised must be
// scaled so that the ranks' gradients add up to the whole. Alone, nothing is sent and the same code
// is plain AdamW.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "metala/distributed/communicator.h"
#include "metala/model/parameters.h"
#include "metala/ops/adamw/adamw.h"

namespace metala {

struct ZeroOptions {
  Device device;
  DType working = DType::f32;  // of the matrices that the model reads: f32, or bf16, f16 on a GPU
  bool decay_all = false;      // false: only matrices decay; true: all but norms and biases
  // Gradients in a bucket, at least; a tensor is never cut. 0: 2 MiB for each rank, from 128 MiB to
  // 1 GiB. A ring's latency, paid by every bucket, grows with the ranks; and within a machine many
  // small sums take more from the backward pass than they hide (docs/scaling.md).
  std::int64_t bucket_bytes = 0;
};

class ZeroOptimizer {
 public:
  // Copies the weights, f32 and the same on all ranks.
  ZeroOptimizer(Communicator&, const Parameters& weights, ZeroOptions);
  ~ZeroOptimizer();

  // What the model reads and adds gradients to.
  const Parameters& parameters() const { return parameters_; }

  void zero_gradients();
  // The gradients of `layer`, and of all that comes after it in a forward pass, are final.
  void layer_done(std::int64_t layer);
  // All gradients are final: the rest is sent, and everything has arrived.
  void finish_gradients();
  // norm [1] f64, on the device: of the summed gradients; not finite unless they are, and on every
  // rank its loss [1] f64. Nobody waits for a GPU.
  void global_norm(const Tensor& loss, const Tensor& norm);
  // Changes nothing when the norm is not finite.
  void update(const adamw::Options&, const Tensor& norm);
  // The first owned tensor with a gradient that is not finite; empty: there is none.
  std::string first_not_finite() const;

  // Weights and moments of one moment, where they were computed; what training does afterwards does
  // not change them.
  struct Snapshot {
    std::vector<Tensor> weights;        // of each bucket, whole, f32; none unless wanted
    std::vector<Tensor> first, second;  // of each bucket, what this rank owns
  };
  // All ranks call it. It takes as long as copying takes on the device, where there is room for the
  // copy; else they are copied to the CPU at once.
  Snapshot snapshot(bool with_weights) const;

  // All weights, whole, f32 on the CPU: from a snapshot, beside whatever the device does; or now,
  // all ranks together.
  std::map<std::string, Tensor> weights(const Snapshot&) const;
  std::map<std::string, Tensor> weights() const { return weights(snapshot(true)); }
  // What this rank owns of the moments, on the CPU: whole tensors as "first_moment.NAME" and
  // "second_moment.NAME", elements [b, e) of one as "first_moment.NAME[b:e]".
  std::map<std::string, Tensor> state(const Snapshot&) const;
  std::map<std::string, Tensor> state() const { return state(snapshot(false)); }
  // Takes what this rank owns out of the states of any number of ranks. Throws Error naming what
  // is missing or misshapen.
  void restore(const std::map<std::string, Tensor>& states);

 private:
  struct Bucket;
  struct Part;  // of a tensor, within what this rank owns of a bucket

  void cut_into_buckets(const Parameters& weights);
  void fill(Bucket&, const Parameters& weights);
  void add_slots(Bucket&);
  Tensor owned_rows(const Tensor& whole) const;  // of a bucket
  std::vector<Part> owned_parts(const Bucket&) const;
  void send_gradients(Bucket&);

  Communicator& ranks_;
  ZeroOptions options_;
  std::vector<Bucket> buckets_;
  std::vector<adamw::Slot> slots_;  // what this rank owns, bucket after bucket
  std::vector<Tensor> summed_;      // the gradients of that, a tensor for each bucket
  Parameters parameters_;
};

}  // namespace metala
