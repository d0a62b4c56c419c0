// RunConfig: a pretraining run in the words of GPT-NeoX's YAML files.
//
// Files are merged into one set of keys. `-` in a key stands for `_`; nested keys are written with
// dots here (optimizer.params.lr). Every key is one of four kinds:
//   supported     the fields below (for_each_key in run_config_keys.h binds names to them)
//   inert         says nothing about the result (launchers, kernels, logging services); accepted
//   constrained   accepted with the values that mean what metala does, else refused, saying why
//   unknown       refused, with the nearest known key
// A key given twice, in one file or in two, is refused.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "metala/model/config.h"
#include "metala/model/parameters.h"
#include "metala/train/trainer.h"

namespace metala {

struct RunConfig {
  // The model.
  std::int64_t num_layers = 0, hidden_size = 0, num_attention_heads = 0, seq_length = 0;
  std::int64_t intermediate_size = 0;  // 0: 256 ceil(floor(8 hidden_size / 3) / 256)
  std::string norm = "rmsnorm";        // without a scale, as the released models; or layernorm
  std::string activation = "silu";
  bool use_bias_in_mlp = false;
  bool no_weight_tying = false;
  std::int64_t make_vocab_size_divisible_by = 128;
  double hidden_dropout = 0;
  std::string init_method = "normal", output_layer_init_method = "scaled_normal";
  double init_method_std = 0.02;
  std::int64_t seed = 1234;

  // The optimizer.
  std::string optimizer = "Adam";
  double lr = 0.001;
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0.1, gradient_clipping = 1.0;
  std::string lr_decay_style = "linear";
  std::int64_t lr_decay_iters = 0;  // 0: train_iters, or lr_decay_fraction of them
  double lr_decay_fraction = 0;
  double min_lr = 0;
  double warmup = 0.01;   // a fraction of lr_decay_iters
  std::string precision;  // fp32, bfloat16, fp16; empty: bfloat16 on a GPU, fp32 on the CPU
  double loss_scale = 0;  // of fp16, like the next four; 0: dynamic
  std::int64_t initial_scale_power = 16, loss_scale_window = 1000, hysteresis = 2;
  double min_loss_scale = 1;
  bool checkpoint_activations = false;

  // Length and batch.
  std::int64_t train_iters = 0, train_epochs = 0;  // exactly one
  std::int64_t train_batch_size = 0, train_micro_batch_size_per_gpu = 0;
  std::int64_t gradient_accumulation_steps = 0;
  std::int64_t eval_interval = 1000, eval_iters = 100;
  std::int64_t exit_interval = 0;

  // Data: data_path cut by split, or paths for each part.
  std::string data_path;
  std::vector<std::string> train_data_paths, valid_data_paths, test_data_paths;
  std::vector<std::string> train_label_data_paths, valid_label_data_paths, test_label_data_paths;
  std::vector<double> train_data_weights, valid_data_weights, test_data_weights;
  std::string pack_impl = "packed";  // or pack_until_overflow, unpacked (data/sample_index.h)
  bool allow_chopped = true;
  std::string split = "969, 30, 1";
  bool weight_by_num_documents = false;
  double weighted_sampler_alpha = 1;
  bool eod_mask_loss = false;

  // Checkpoints and logs.
  std::string save, load;
  std::int64_t checkpoint_factor = 0;
  std::string checkpoint_scale = "linear";
  std::vector<std::int64_t> extra_save_iters;
  std::int64_t keep_last_n_checkpoints = 0;  // 0: all
  bool finetune = false;
  std::int64_t log_interval = 100;

  // What GPT-NeoX has no key for, under `metala:`.
  std::string device = "cpu";
  std::string tokenizer;        // a folder or .model file; empty: the one kept with the data
  std::int64_t vocab_size = 0;  // instead of a tokenizer's, for data without one
  bool reset_state_at_documents = false;
  bool index_maps = true;           // the order of many samples is kept beside the data
  std::string decay = "reference";  // all but norms and biases; or "matrices"
  std::string loss = "labels";  // the mean over all of a step; or "micro_batches": of their means
};

struct RunConfigFile {
  std::string text, source;  // `source` names it in errors
};

struct ParsedRunConfig {
  RunConfig config;
  std::vector<std::string> inert;  // keys that were given and have no effect
};

// `overrides` are (key, value) pairs from the command line; they replace what the files say.
// Throws Error "FILE:LINE: KEY ...".
ParsedRunConfig parse_run_config(const std::vector<RunConfigFile>&,
                                 const std::vector<std::pair<std::string, std::string>>& overrides);

// Fills in what follows from what is given and refuses contradictions:
//   train_batch_size = train_micro_batch_size_per_gpu gradient_accumulation_steps ranks
// which, as the numbers of samples below, must be less than 2^63.
// train_iters stays 0 where train_epochs is given: it follows from the data.
void settle(RunConfig&, std::int64_t ranks);

// Every key with its value, as YAML that parse_run_config reads back.
std::string as_yaml(const RunConfig&);

// Model and trainer of a settled run; ids of the vocabulary's specials stay as they are in Config.
Config model_config(const RunConfig&, std::int64_t vocabulary);
Initialization initialization(const RunConfig&);
void set_trainer_options(const RunConfig&, TrainerOptions&);  // leaves what it does not know

// Samples that a run asks its data for, of a settled batch: to train on, in one evaluation, and in
// all evaluations. Throws Error naming the keys where a product is 2^63 or more.
std::int64_t training_samples(const RunConfig&);
std::int64_t evaluation_samples(const RunConfig&);
std::int64_t validation_samples(const RunConfig&);

// Smallest multiple of `divisor` that is not below `vocabulary`.
std::int64_t padded_vocabulary(std::int64_t vocabulary, std::int64_t divisor);

}  // namespace metala
