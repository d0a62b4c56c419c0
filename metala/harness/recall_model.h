// A small model that learns associative recall in a few steps, for tests that compare trainers.
#pragma once

#include "metala/model/config.h"
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

}  // namespace metala::harness
