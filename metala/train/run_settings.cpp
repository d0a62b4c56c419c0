// What follows from a run's configuration: the numbers left out, the model, the trainer.
#include <algorithm>
#include <cmath>

#include "metala/base/checked_product.h"
#include "metala/base/error.h"
#include "metala/data/sample_index.h"
#include "metala/train/run_config.h"

namespace metala {
namespace {

void require_positive(const char* key, std::int64_t value) {
  require(value > 0, "{} is {}; give a number above 0", key,
          value == 0 ? "missing" : std::to_string(value));
}

void require_one_of(const char* key, const std::string& value,
                    std::initializer_list<const char*> words) {
  std::string all;
  for (const char* word : words) {
    if (value == word) return;
    all += (all.empty() ? "" : ", ") + std::string(word);
  }
  fail("{} is \"{}\"; supported: {}", key, value, all);
}

void settle_batch(RunConfig& c, std::int64_t ranks) {
  std::int64_t& all = c.train_batch_size;
  std::int64_t& micro = c.train_micro_batch_size_per_gpu;
  std::int64_t& accumulation = c.gradient_accumulation_steps;
  require(all >= 0 && micro >= 0 && accumulation >= 0,
          "train_batch_size, train_micro_batch_size_per_gpu and gradient_accumulation_steps are "
          "{}, {} and {}; wanted numbers above 0",
          all, micro, accumulation);
  require(all > 0 || micro > 0,
          "give train_micro_batch_size_per_gpu or train_batch_size: sequences in a step");
  const auto times_ranks = [&] {
    return checked_product("gradient_accumulation_steps times ranks", accumulation, ranks);
  };
  const auto product = [&] {
    return checked_product(
        "train_micro_batch_size_per_gpu times gradient_accumulation_steps times ranks", micro,
        times_ranks());
  };
  if (all == 0) {
    if (accumulation == 0) accumulation = 1;
    all = product();
  } else if (micro == 0) {
    if (accumulation == 0) accumulation = 1;
    micro = all / times_ranks();
  } else if (accumulation == 0) {
    accumulation =
        all / checked_product("train_micro_batch_size_per_gpu times ranks", micro, ranks);
  }
  require(micro > 0 && accumulation > 0 && all == product(),
          "train_batch_size {} is not train_micro_batch_size_per_gpu {} times "
          "gradient_accumulation_steps {} times {} ranks; leave one of them out",
          all, micro, accumulation, ranks);
}

void settle_length(RunConfig& c) {
  require((c.train_iters > 0) != (c.train_epochs > 0),
          "give train_iters or train_epochs, one of them and above 0 (they are {} and {})",
          c.train_iters, c.train_epochs);
  require(c.eval_interval >= 0 && c.eval_iters >= 0 && c.exit_interval >= 0 && c.log_interval >= 0,
          "eval_interval, eval_iters, exit_interval and log_interval cannot be negative");
  require(c.lr_decay_fraction >= 0 && c.lr_decay_fraction <= 1,
          "lr_decay_fraction is {}; wanted 0 to 1", c.lr_decay_fraction);
  require(c.lr_decay_iters == 0 || c.lr_decay_fraction == 0,
          "give lr_decay_iters or lr_decay_fraction, not both");
  training_samples(c);
  validation_samples(c);
  if (c.train_iters == 0) return;
  if (c.lr_decay_fraction > 0) {
    c.lr_decay_iters =
        static_cast<std::int64_t>(c.lr_decay_fraction * static_cast<double>(c.train_iters));
    c.lr_decay_fraction = 0;
  }
  if (c.lr_decay_iters == 0) c.lr_decay_iters = c.train_iters;
}

void check_words(const RunConfig& c) {
  require_one_of("norm", c.norm, {"rmsnorm", "layernorm"});
  require_one_of("optimizer.type", c.optimizer, {"Adam", "AdamW"});
  require_one_of("lr_decay_style", c.lr_decay_style,
                 {"linear", "cosine", "exponential", "constant", "wsd"});
  require_one_of("checkpoint_scale", c.checkpoint_scale, {"linear", "log"});
  require_one_of("metala.decay", c.decay, {"reference", "matrices"});
  require_one_of("metala.loss", c.loss, {"labels", "micro_batches"});
  if (!c.precision.empty()) require_one_of("precision", c.precision, {"fp32", "bfloat16", "fp16"});
  require(c.precision != "fp16" || c.device != "cpu",
          "precision is fp16, which GPUs compute in; set metala.device: cuda (or pass --device "
          "cuda), or on a CPU precision: fp32 (--dtype f32)");
  initialization(c);
  glu::activation_named(c.activation);
}

void check_numbers(const RunConfig& c) {
  require(
      c.hidden_size % (2 * c.num_attention_heads) == 0,
      "hidden_size is {} and num_attention_heads {}; wanted hidden_size a multiple of twice the "
      "heads, whose keys are half as wide as their values",
      c.hidden_size, c.num_attention_heads);
  require(c.lr > 0 && c.min_lr >= 0 && c.min_lr <= c.lr,
          "optimizer.params.lr is {} and min_lr {}; wanted 0 <= min_lr <= lr", c.lr, c.min_lr);
  require(
      c.betas.size() == 2 && c.betas[0] >= 0 && c.betas[0] < 1 && c.betas[1] >= 0 && c.betas[1] < 1,
      "optimizer.params.betas wants two numbers of 0 to 1, 1 excluded");
  require(c.eps > 0 && c.weight_decay >= 0 && c.gradient_clipping >= 0,
          "optimizer.params.eps must be above 0, weight_decay and gradient_clipping not negative");
  require(c.warmup >= 0 && c.warmup <= 1, "warmup is {}; wanted a fraction of lr_decay_iters",
          c.warmup);
  require(c.hidden_dropout >= 0 && c.hidden_dropout < 1, "hidden_dropout is {}; wanted 0 to 1",
          c.hidden_dropout);
  require(c.loss_scale >= 0 && c.min_loss_scale > 0 && c.initial_scale_power >= 0 &&
              c.initial_scale_power <= 127 && c.loss_scale_window > 0 && c.hysteresis > 0,
          "fp16: wanted loss_scale 0 (dynamic) or above, initial_scale_power from 0 to 127, "
          "loss_scale_window, hysteresis and min_loss_scale above 0");
  require(c.init_method_std > 0, "init_method_std is {}; wanted above 0", c.init_method_std);
  require(c.seed >= 0 && c.seed <= 0xffffffff, "seed is {}; wanted 0 to 2^32 - 1", c.seed);
  require_positive("make_vocab_size_divisible_by", c.make_vocab_size_divisible_by);
}

void check_data(const RunConfig& c) {
  const bool paths = !c.train_data_paths.empty();
  require(paths != !c.data_path.empty(),
          "give data_path (cut by split) or train_data_paths, one of them");
  require(
      paths || (c.valid_data_paths.empty() && c.test_data_paths.empty()),
      "valid_data_paths and test_data_paths go with train_data_paths; data_path is cut by split");
}

void check_labels_and_packing(const RunConfig& c) {
  const auto check = [](const char* key, const std::vector<std::string>& labels,
                        const std::vector<std::string>& paths) {
    require(labels.empty() || labels.size() == paths.size(),
            "{} names {} datasets, for {} of data; name one of labels for each", key, labels.size(),
            paths.size());
  };
  check("train_label_data_paths", c.train_label_data_paths, c.train_data_paths);
  check("valid_label_data_paths", c.valid_label_data_paths, c.valid_data_paths);
  check("test_label_data_paths", c.test_label_data_paths, c.test_data_paths);
  const bool packed = packing_named(c.pack_impl) == Packing::packed;
  require(!packed || c.allow_chopped,
          "allow_chopped is false, but packed samples cut documents; set it true, or pack_impl: "
          "pack_until_overflow");
  require(packed || c.train_epochs == 0,
          "train_epochs goes with pack_impl: packed; give train_iters instead");
}

void check_checkpoints(const RunConfig& c) {
  require(!c.save.empty(), "save is missing: the run's folder (or pass --output DIR)");
  require(c.checkpoint_factor >= 0 && c.keep_last_n_checkpoints >= 0,
          "checkpoint_factor and keep_last_n_checkpoints cannot be negative");
  require(c.load.empty() || c.load == c.save || c.finetune,
          "load {} and save {} differ; set finetune: true to start from the weights of load, or "
          "name one folder to go on with its run",
          c.load, c.save);
  require(!c.finetune || !c.load.empty(), "finetune is true, but load names no model");
}

InitMethod method(const char* key, const std::string& name) {
  try {
    return init_method_named(name);
  } catch (const Error& e) {
    fail("{}: {}", key, e.what());
  }
}

}  // namespace

void settle(RunConfig& c, std::int64_t ranks) {
  for (const auto& [key, value] : {std::pair{"num_layers", c.num_layers},
                                   {"hidden_size", c.hidden_size},
                                   {"num_attention_heads", c.num_attention_heads},
                                   {"seq_length", c.seq_length}}) {
    require_positive(key, value);
  }
  if (c.intermediate_size == 0) {
    constexpr std::int64_t multiple = 256;
    c.intermediate_size = padded_vocabulary(8 * c.hidden_size / 3, multiple);
  }
  settle_batch(c, ranks);
  settle_length(c);
  check_words(c);
  check_numbers(c);
  check_data(c);
  check_labels_and_packing(c);
  check_checkpoints(c);
  check_config(model_config(c, 1), "the configuration");
}

std::int64_t training_samples(const RunConfig& c) {
  return checked_product("train_iters times train_batch_size", c.train_iters, c.train_batch_size);
}

std::int64_t evaluation_samples(const RunConfig& c) {
  return checked_product("eval_iters times train_batch_size", c.eval_iters, c.train_batch_size);
}

std::int64_t validation_samples(const RunConfig& c) {
  const std::int64_t evaluations = c.eval_interval > 0 ? c.train_iters / c.eval_interval + 1 : 1;
  return checked_product("evaluations times their samples", evaluations, evaluation_samples(c));
}

std::int64_t padded_vocabulary(std::int64_t vocabulary, std::int64_t divisor) {
  return (vocabulary + divisor - 1) / divisor * divisor;
}

Initialization initialization(const RunConfig& c) {
  return {method("init_method", c.init_method),
          method("output_layer_init_method", c.output_layer_init_method)};
}

Config model_config(const RunConfig& c, std::int64_t vocabulary) {
  Config m;
  m.vocab_size = padded_vocabulary(vocabulary, c.make_vocab_size_divisible_by);
  m.width = c.hidden_size;
  m.layers = c.num_layers;
  m.heads = c.num_attention_heads;
  m.glu_width = c.intermediate_size;
  m.glu_activation = glu::activation_named(c.activation);
  m.bias = c.use_bias_in_mlp;
  m.norm = c.norm == "layernorm" ? NormType::layernorm : NormType::simplermsnorm;
  m.tie_word_embeddings = !c.no_weight_tying;
  m.hidden_dropout = c.hidden_dropout;
  m.init_std = c.init_method_std;
  m.query_width = m.width / 2;
  m.attention_scale = 1 / std::sqrt(static_cast<double>(std::max<std::int64_t>(m.key_width(), 1)));
  return m;
}

void set_trainer_options(const RunConfig& c, TrainerOptions& t) {
  t.steps = c.train_iters;
  t.accumulation = c.gradient_accumulation_steps;
  t.schedule.kind = schedule_named(c.lr_decay_style);
  t.schedule.base = c.lr;
  t.schedule.low = c.min_lr;
  t.schedule.warmup = c.warmup * static_cast<double>(c.lr_decay_iters);
  t.schedule.steps = c.lr_decay_iters;
  t.adamw.beta1 = c.betas[0];
  t.adamw.beta2 = c.betas[1];
  t.adamw.epsilon = c.eps;
  t.adamw.weight_decay = c.weight_decay;
  t.adamw.clip = c.gradient_clipping;
  t.scaling.on = c.precision == "fp16";
  t.scaling.fixed = c.loss_scale;
  t.scaling.initial_power = c.initial_scale_power;
  t.scaling.window = c.loss_scale_window;
  t.scaling.hysteresis = c.hysteresis;
  t.scaling.minimum = c.min_loss_scale;
  t.mean_of_means = c.loss == "micro_batches";
  t.decay_all = c.decay == "reference";
  t.validate_every = c.eval_interval;
  t.save.every = c.checkpoint_factor;
  t.save.powers = c.checkpoint_scale == "log";
  t.save.also = c.extra_save_iters;
  t.model.recompute_blocks = c.checkpoint_activations;
  t.model.dropout_seed = static_cast<std::uint64_t>(c.seed);
}

}  // namespace metala
