// GPT-NeoX's configuration files: merged, strict, resolved; what is not understood is refused by
// name.
#include "metala/train/run_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "metala/base/error.h"
#include "metala/harness/refusal.h"
#include "metala/io/file.h"
#include "metala/model/checkpoint.h"

namespace metala {
namespace {

using Overrides = std::vector<std::pair<std::string, std::string>>;

const std::string model = R"({
  # as GPT-NeoX's own files write it
  "num_layers": 2, "hidden-size": 64, "num_attention_heads": 2, "seq_length": 32,
  "optimizer": {"type": "Adam", "params": {"lr": 0.0006, "betas": [0.9, 0.95], "eps": 1.0e-8,}},
  "train_micro_batch_size_per_gpu": 4, "train_iters": 100, "data_path": "d", "save": "s",
})";

RunConfig parsed(const std::string& more, const Overrides& overrides = {}) {
  return parse_run_config({{model, "model.yml"}, {more, "more.yml"}}, overrides).config;
}

RunConfig settled(const std::string& more, std::int64_t ranks = 1,
                  const Overrides& overrides = {}) {
  RunConfig c = parsed(more, overrides);
  settle(c, ranks);
  return c;
}

std::string refusal(const std::string& more, std::int64_t ranks = 1,
                    const Overrides& overrides = {}) {
  return harness::refusal_of([&] { settled(more, ranks, overrides); });
}

testing::AssertionResult names(const std::string& message, const std::string& words) {
  if (message.find(words) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << message << " (wanted: " << words << ")";
}

TEST(RunConfig, FilesAreMergedAndDashesStandForUnderscores) {
  const RunConfig c = parsed("{'min-lr': 6.0e-5, 'warmup': 0.05, 'norm': 'layernorm'}");
  EXPECT_EQ(c.hidden_size, 64);
  EXPECT_EQ(c.lr, 0.0006);
  EXPECT_EQ(c.betas, (std::vector<double>{0.9, 0.95}));
  EXPECT_EQ(c.min_lr, 6e-5);
  EXPECT_EQ(c.norm, "layernorm");
  EXPECT_EQ(c.weight_decay, 0.1);  // GPT-NeoX's default
}

TEST(RunConfig, BlockStyleAndTrueOrFalseInAnyCaseAreRead) {
  const RunConfig c = parsed("no_weight_tying: True\ntrain-data-paths:\n  - a\n  - b\n");
  EXPECT_TRUE(c.no_weight_tying);
  EXPECT_EQ(c.train_data_paths, (std::vector<std::string>{"a", "b"}));
}

TEST(RunConfig, KeysGivenTwiceUnknownOrOfTheWrongTypeAreRefusedWithTheirPlace) {
  EXPECT_TRUE(names(refusal("{'seq-length': 64}"),
                    "more.yml:1: seq_length is given twice, first in model.yml:3"));
  EXPECT_TRUE(names(refusal("{'warmup': 0.1, 'warmup': 0.2}"), "warmup is given twice"));
  EXPECT_TRUE(names(refusal("min_lr: 0\nwarmpu: 0.1\n"),
                    "more.yml:2: no key warmpu; did you mean warmup?"));
  EXPECT_TRUE(names(refusal("{'optimizer.params.mu': 1}"), "no key optimizer.params.mu"));
  EXPECT_TRUE(names(refusal("{'eval_iters': 'ten'}"), "eval_iters is ten; wanted a whole number"));
  EXPECT_TRUE(names(refusal("{'eval_iters': 1.5}"), "eval_iters is 1.5; wanted a whole number"));
  EXPECT_TRUE(names(refusal("{'eod_mask_loss': 7}"), "eod_mask_loss is 7; wanted true or false"));
  EXPECT_TRUE(names(refusal("{'train_data_paths': 'a'}"), "wanted a list"));
  EXPECT_TRUE(names(refusal("{'metala': 3}"), "metala wants keys and values"));
  EXPECT_TRUE(names(refusal("{'warmup': [1"), "more.yml:1:"));
  EXPECT_TRUE(names(refusal("just words"), "wanted keys and values"));
}

TEST(RunConfig, WhatMetalaDoesNotDoIsRefusedSayingWhatToDo) {
  EXPECT_TRUE(names(refusal("{'model_parallel_size': 2}"),
                    "model_parallel_size is 2; metala does not split matrices"));
  EXPECT_TRUE(
      names(refusal("{'zero_optimization': {'stage': 3}}"), "zero_optimization.stage is 3"));
  EXPECT_TRUE(names(refusal("{'attention_dropout': 0.1}"), "attention_dropout is 0.1"));
  EXPECT_TRUE(names(refusal("{'attention_config': [[['global'], 2]]}"), "every layer is MetaLA"));
  EXPECT_TRUE(names(refusal("{'train_label_data_paths': ['x']}"), "train_label_data_paths"));
  EXPECT_TRUE(names(refusal("{'pos_train_data_paths': ['x']}"), "only pretraining"));
  EXPECT_TRUE(names(refusal("{'allow_chopped': false}"), "pack_until_overflow"));
  EXPECT_TRUE(names(refusal("{'pack_impl': 'tight'}"), "pack_impl \"tight\""));
  EXPECT_TRUE(names(refusal("{'fp16': {'enabled': true}}"), "--device cuda"));
  EXPECT_TRUE(names(refusal("{'fp16': {'enabled': true, 'hysteresis': 0}, 'metala': {'device': "
                            "'cuda'}}"),
                    "hysteresis"));
  EXPECT_TRUE(names(refusal("{'optimizer': {'type': 'Lion'}}"), "given twice"));
  EXPECT_TRUE(names(refusal("{}", 1, {{"optimizer.type", "Lion"}}), "supported: Adam, AdamW"));
  EXPECT_TRUE(names(refusal("{'init_method': 'diagonal'}"), "init_method: initialization"));
  EXPECT_TRUE(names(refusal("{'norm': 'scalenorm'}"), "supported: rmsnorm, layernorm"));
  EXPECT_TRUE(names(refusal("{'lr_decay_style': 'step'}"), "supported: linear, cosine"));
  EXPECT_EQ(refusal("{'model_parallel_size': 1, 'pipe_parallel_size': 0, 'gpt_j_residual': False,"
                    " 'zero_optimization': {'stage': 1}}"),
            "accepted");
}

TEST(RunConfig, InertKeysAreAcceptedAndListed) {
  const auto p = parse_run_config(
      {{"{'hostfile': '/x', 'wandb_project': 'y', 'zero_optimization': {'stage': 1, "
        "'reduce_bucket_size': 500000000, 'overlap_comm': True}, 'pos_emb': 'rotary'}",
        "a.yml"}},
      {});
  EXPECT_EQ(p.inert, (std::vector<std::string>{"hostfile", "pos_emb", "wandb_project",
                                               "zero_optimization.overlap_comm",
                                               "zero_optimization.reduce_bucket_size"}));
}

TEST(RunConfig, PrecisionIsReadFromAnyOfItsKeys) {
  EXPECT_EQ(settled("{'precision': 'bfloat16'}").precision, "bfloat16");
  EXPECT_EQ(settled("{'fp16': {'enabled': true, 'type': 'bfloat16'}}").precision, "bfloat16");
  EXPECT_EQ(settled("{'bf16': {'enabled': true}}").precision, "bfloat16");
  EXPECT_EQ(settled("{'fp16': {'enabled': false}}").precision, "");
  const RunConfig half = settled(
      "{'fp16': {'enabled': true, 'loss_scale': 0, 'loss_scale_window': 500, 'hysteresis': 3, "
      "'min_loss_scale': 2, 'initial_scale_power': 12}, 'metala': {'device': 'cuda'}}");
  EXPECT_EQ(half.precision, "fp16");
  TrainerOptions o;
  set_trainer_options(half, o);
  EXPECT_TRUE(o.scaling.on);
  EXPECT_EQ(LossScaler(o.scaling).scale(), 4096);
  EXPECT_EQ(o.scaling.window, 500);
  EXPECT_EQ(o.scaling.hysteresis, 3);
  EXPECT_EQ(o.scaling.minimum, 2);
  const Overrides flag = {{"precision", "bfloat16"}};
  EXPECT_EQ(settled("{'fp16': {'enabled': true}}", 1, flag).precision, "bfloat16");
}

TEST(RunConfig, TheBatchIsMicroTimesAccumulationTimesRanks) {
  RunConfig c = settled("{'gradient_accumulation_steps': 3}", 2);
  EXPECT_EQ(c.train_batch_size, 24);
  c = settled("{'train_batch_size': 32}", 2);
  EXPECT_EQ(c.gradient_accumulation_steps, 4);
  EXPECT_TRUE(names(refusal("{'train_batch_size': 30}", 2),
                    "train_batch_size 30 is not train_micro_batch_size_per_gpu 4 times "
                    "gradient_accumulation_steps 3 times 2 ranks"));
  EXPECT_TRUE(
      names(refusal("{'train_batch_size': 8, 'gradient_accumulation_steps': 4}"), "leave one"));
}

TEST(RunConfig, BatchesThatNoNumberHoldsAreRefusedByName) {
  const std::string large = "4503599627370496";  // 2^52
  EXPECT_TRUE(names(refusal("{'gradient_accumulation_steps': " + large + "}", 2048),
                    "gradient_accumulation_steps times ranks: 4503599627370496 times 2048 is "
                    "2^63 or more"));
  EXPECT_TRUE(names(refusal("{'train_batch_size': 4, 'gradient_accumulation_steps': " + large + "}",
                            1, {{"train_micro_batch_size_per_gpu", "4096"}}),
                    "train_micro_batch_size_per_gpu times gradient_accumulation_steps"));
  EXPECT_TRUE(names(refusal("{'gradient_accumulation_steps': 1}", 1,
                            {{"train_micro_batch_size_per_gpu", large}, {"train_iters", large}}),
                    "train_iters times train_batch_size"));
  EXPECT_TRUE(names(
      refusal("{'eval_iters': " + large + "}", 1, {{"train_micro_batch_size_per_gpu", "4096"}}),
      "eval_iters times train_batch_size"));
  EXPECT_TRUE(names(refusal("{'eval_iters': 1125899906842624, 'eval_interval': 1}", 1,
                            {{"train_iters", "1000000"}}),
                    "evaluations times their samples"));
}

TEST(RunConfig, ContradictionsAndMissingNumbersAreRefused) {
  EXPECT_TRUE(names(refusal("{'train_epochs': 1}"), "train_iters or train_epochs"));
  EXPECT_TRUE(names(refusal("{'train_data_paths': ['x']}"), "data_path (cut by split) or"));
  EXPECT_TRUE(names(refusal("{'valid_data_paths': ['x']}"), "go with train_data_paths"));
  EXPECT_TRUE(names(refusal("{'load': 'other'}"), "load other and save s differ"));
  EXPECT_TRUE(names(refusal("{'finetune': true}"), "load names no model"));
  EXPECT_TRUE(names(refusal("{'min_lr': 0.1}"), "wanted 0 <= min_lr <= lr"));
  EXPECT_TRUE(names(refusal("{'warmup': 2}"), "warmup is 2"));
  EXPECT_TRUE(names(refusal("{'lr_decay_iters': 5, 'lr_decay_fraction': 0.5}"), "not both"));
  EXPECT_TRUE(names(refusal("{}", 1, {{"num_attention_heads", "5"}}), "twice the heads"));
  EXPECT_TRUE(names(refusal("{}", 1, {{"num_layers", "0"}}), "num_layers is missing"));
  EXPECT_TRUE(names(refusal("{}", 1, {{"num_lairs", "0"}}),
                    "the command line: no key num_lairs; did you mean num_layers?"));
}

TEST(RunConfig, TheResolvedConfigurationReadsBackAsItself) {
  const RunConfig c = settled(
      "{'train_data_weights': [1.0, 2.5], 'extra_save_iters': [0, 1, 2], 'split': '969, 30, 1', "
      "'metala': {'device': 'cuda:1', 'reset_state_at_documents': true}, 'min_lr': 1.0e-7}");
  const std::string yaml = as_yaml(c);
  RunConfig again = parse_run_config({{yaml, "resolved"}}, {}).config;
  EXPECT_EQ(as_yaml(again), yaml);
  settle(again, 1);
  EXPECT_EQ(as_yaml(again), yaml);
  EXPECT_EQ(again.device, "cuda:1");
  EXPECT_EQ(again.extra_save_iters, (std::vector<std::int64_t>{0, 1, 2}));
}

TEST(RunConfig, ModelAndTrainerFollow) {
  const RunConfig c = settled(
      "{'warmup': 0.1, 'lr_decay_fraction': 0.5, 'checkpoint_factor': 2,"
      " 'checkpoint_scale': 'log', 'no_weight_tying': true}");
  const Config m = model_config(c, 50277);
  EXPECT_EQ(m.vocab_size, 50304);
  EXPECT_EQ(m.glu_width, 256);  // 256 ceil(170 / 256)
  EXPECT_EQ(m.query_width, 32);
  EXPECT_FALSE(m.tie_word_embeddings);
  TrainerOptions t;
  set_trainer_options(c, t);
  EXPECT_EQ(t.schedule.steps, 50);
  EXPECT_EQ(t.schedule.warmup, 5);
  EXPECT_TRUE(t.decay_all);
  EXPECT_TRUE(t.save.due(8) && t.save.due(1) && !t.save.due(6) && !t.save.due(0));
}

TEST(RunConfig, TheReadyConfigurationsResolveToTheSizesTheyState) {
  const std::string folder = METALA_SOURCE_DIR "/configs/";
  const auto read = [&](const std::string& name) {
    return RunConfigFile{read_file(folder + name, 1 << 20), name};
  };
  const std::map<std::string, std::int64_t> parameters = {{"metala-360m.yml", 359927808},
                                                          {"metala-1.0b.yml", 925286400},
                                                          {"metala-1.4b.yml", 1336418304},
                                                          {"metala-3b.yml", 2666782720},
                                                          {"laptop.yml", 4265472}};
  std::size_t found = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == "data.yml") continue;
    ++found;
    RunConfig c = parse_run_config({read(name), read("data.yml")}, {}).config;
    settle(c, 1);
    std::int64_t count = 0;
    for (const auto& t : expected_tensors(model_config(c, name == "laptop.yml" ? 4096 : 50277))) {
      count += t.shape.count();
    }
    ASSERT_TRUE(parameters.contains(name)) << name;
    EXPECT_EQ(count, parameters.at(name)) << name;
  }
  EXPECT_EQ(found, parameters.size());
}

TEST(RunConfig, SavePlansAreMultiplesPowersAndExtras) {
  const SavePlan plan = {10, false, {0, 3}};
  EXPECT_TRUE(plan.due(0) && plan.due(3) && plan.due(20));
  EXPECT_FALSE(plan.due(1) || plan.due(15));
  EXPECT_FALSE(SavePlan{}.due(5));
}

}  // namespace
}  // namespace metala
