// State: all that a MetaLA model remembers of the tokens it has read, whatever their number.
//
// A value: passed in, advanced, copied, forked, saved. For each layer the recurrent state S
// [B, H, K, D] and the last W inputs of the short convolution [B, d, W]; for each sequence the
// number of tokens read and, once it is not 0, the logits that follow the last of them, so that
// generation can go on from a restored state without reading anything.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "metala/base/tensor.h"
#include "metala/model/config.h"

namespace metala {

struct LayerState {
  Tensor recurrent;  // [B, H, K, D] f32 (f64 for a model in f64)
  Tensor conv;       // [B, d, W]; absent without a short convolution
};

class State {
 public:
  State() = default;
  // The state before the first token: zero.
  State(const Config&, std::int64_t batch, DType = DType::f32, Device = {});

  std::int64_t batch() const { return static_cast<std::int64_t>(tokens_.size()); }
  std::vector<LayerState>& layers() { return layers_; }
  const std::vector<LayerState>& layers() const { return layers_; }
  std::vector<std::int64_t>& tokens() { return tokens_; }  // read so far, for each sequence
  const std::vector<std::int64_t>& tokens() const { return tokens_; }
  Tensor& logits() { return logits_; }  // [B, V]; undefined before the first token
  const Tensor& logits() const { return logits_; }

  std::size_t bytes() const;

  State copy() const;      // fresh memory
  State to(Device) const;  // what lies there already is shared, not copied
  // A batch made of the given sequences of this one, in this order, repeats allowed: selecting
  // {0, 0, 0} forks sequence 0 three ways.
  State select(const std::vector<std::int64_t>& sequences) const;
  // One batch of the sequences of all, in order. All have logits or none has.
  static State joined(const std::vector<State>&);

  // A safetensors file with the model's fingerprint (checkpoint.h) and the caller's own entries in
  // its metadata, written aside and renamed. Loading refuses the state of another model by name,
  // and puts the caller's entries into `metadata` if it is given.
  using Metadata = std::map<std::string, std::string>;
  void save(const std::string& path, const std::string& fingerprint, Metadata metadata = {}) const;
  static State load(const std::string& path, const Config&, const std::string& fingerprint,
                    Metadata* metadata = nullptr);

 private:
  std::vector<LayerState> layers_;
  std::vector<std::int64_t> tokens_;
  Tensor logits_;
};

}  // namespace metala
