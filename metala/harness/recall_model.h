// Small models for tests of trainers: one that learns associative recall in a few steps, and one
// whose loss is not finite.
#pragma once

#include "metala/model/config.h"
#include "metala/model/parameters.h"
#include "metala/train/mqar_task.h"

namespace metala::harness {

inline MqarTask small_recall_task() {
  MqarOptions o;
  o.vocabulary = 128;
  o.batch = 16;
  o.training_examples = 1000;
  o.validation_examples = 16;
  return MqarTask(o);
}

inline Config small_recall_model() {
  Config c;
  c.width = c.query_width = 64;
  c.layers = c.heads = 2;
  c.vocab_size = 128;
  c.channel_mixer = ChannelMixer::identity;
  c.norm = NormType::layernorm;
  c.tie_word_embeddings = true;
  return c;
}

// A model whose first step has a loss that is not finite though its gradients are: the logit of
// label 5 is -64e37, which float32 does not hold; its gradient holds 1e37.
struct InfiniteLoss {
  Config config = small_recall_model();
  Parameters parameters;
  // Learns label 5.
  class Task : public TrainingTask {
   public:
    LabelledBatch training_batch(std::int64_t) const override {
      return {{1, 2, 3, 4}, {5, 5, 5, 5}, {0, 4}};
    }
    std::int64_t validation_batches() const override { return 0; }
    LabelledBatch validation_batch(std::int64_t) const override { return {}; }
  } task;

  InfiniteLoss() {
    config.tie_word_embeddings = false;
    parameters = Parameters::initialized(config, initialization_named("scaled"), 1);
    const Tensor& head = parameters.tensors().at("lm_head.weight");
    const Tensor& bias = parameters.tensors().at("model.final_norm.bias");
    for (std::int64_t i = 0; i < config.width; ++i) {
      bias.data<float>()[i] = 1;
      head.data<float>()[5 * config.width + i] = -1e37f;
    }
  }
};

}  // namespace metala::harness
