// The names of RunConfig's fields, in one place: reading, writing and suggestions all walk it.
#pragma once

#include "metala/train/run_config.h"

namespace metala {

// visit(name, field) for every supported key. `Run` is RunConfig or const RunConfig.
template <class Run, class Visit>
void for_each_key(Run& c, Visit&& visit) {
  visit("num_layers", c.num_layers);
  visit("hidden_size", c.hidden_size);
  visit("num_attention_heads", c.num_attention_heads);
  visit("seq_length", c.seq_length);
  visit("intermediate_size", c.intermediate_size);
  visit("norm", c.norm);
  visit("activation", c.activation);
  visit("use_bias_in_mlp", c.use_bias_in_mlp);
  visit("no_weight_tying", c.no_weight_tying);
  visit("make_vocab_size_divisible_by", c.make_vocab_size_divisible_by);
  visit("hidden_dropout", c.hidden_dropout);
  visit("init_method", c.init_method);
  visit("output_layer_init_method", c.output_layer_init_method);
  visit("init_method_std", c.init_method_std);
  visit("seed", c.seed);

  visit("optimizer.type", c.optimizer);
  visit("optimizer.params.lr", c.lr);
  visit("optimizer.params.betas", c.betas);
  visit("optimizer.params.eps", c.eps);
  visit("weight_decay", c.weight_decay);
  visit("gradient_clipping", c.gradient_clipping);
  visit("lr_decay_style", c.lr_decay_style);
  visit("lr_decay_iters", c.lr_decay_iters);
  visit("lr_decay_fraction", c.lr_decay_fraction);
  visit("min_lr", c.min_lr);
  visit("warmup", c.warmup);
  visit("precision", c.precision);
  visit("fp16.loss_scale", c.loss_scale);
  visit("fp16.initial_scale_power", c.initial_scale_power);
  visit("fp16.loss_scale_window", c.loss_scale_window);
  visit("fp16.hysteresis", c.hysteresis);
  visit("fp16.min_loss_scale", c.min_loss_scale);
  visit("checkpoint_activations", c.checkpoint_activations);

  visit("train_iters", c.train_iters);
  visit("train_epochs", c.train_epochs);
  visit("train_batch_size", c.train_batch_size);
  visit("train_micro_batch_size_per_gpu", c.train_micro_batch_size_per_gpu);
  visit("gradient_accumulation_steps", c.gradient_accumulation_steps);
  visit("eval_interval", c.eval_interval);
  visit("eval_iters", c.eval_iters);
  visit("exit_interval", c.exit_interval);

  visit("data_path", c.data_path);
  visit("train_data_paths", c.train_data_paths);
  visit("valid_data_paths", c.valid_data_paths);
  visit("test_data_paths", c.test_data_paths);
  visit("train_label_data_paths", c.train_label_data_paths);
  visit("valid_label_data_paths", c.valid_label_data_paths);
  visit("test_label_data_paths", c.test_label_data_paths);
  visit("train_data_weights", c.train_data_weights);
  visit("valid_data_weights", c.valid_data_weights);
  visit("test_data_weights", c.test_data_weights);
  visit("split", c.split);
  visit("pack_impl", c.pack_impl);
  visit("allow_chopped", c.allow_chopped);
  visit("weight_by_num_documents", c.weight_by_num_documents);
  visit("weighted_sampler_alpha", c.weighted_sampler_alpha);
  visit("eod_mask_loss", c.eod_mask_loss);

  visit("save", c.save);
  visit("load", c.load);
  visit("checkpoint_factor", c.checkpoint_factor);
  visit("checkpoint_scale", c.checkpoint_scale);
  visit("extra_save_iters", c.extra_save_iters);
  visit("keep_last_n_checkpoints", c.keep_last_n_checkpoints);
  visit("finetune", c.finetune);
  visit("log_interval", c.log_interval);

  visit("metala.device", c.device);
  visit("metala.tokenizer", c.tokenizer);
  visit("metala.vocab_size", c.vocab_size);
  visit("metala.reset_state_at_documents", c.reset_state_at_documents);
  visit("metala.index_maps", c.index_maps);
  visit("metala.decay", c.decay);
  visit("metala.loss", c.loss);
}

}  // namespace metala
