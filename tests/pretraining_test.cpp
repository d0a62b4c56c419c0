// Pretraining through the program: from text to a trained model, by configuration files.
#include <nlohmann/json.hpp>

#include "program.h"

namespace metala {
namespace {

using namespace program;

// Prepared bytes of a text, and a configuration that trains on them in a second.
class Pretraining : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new Folder;
    std::string text;
    std::ifstream lines(METALA_SOURCE_DIR "/LICENSE");
    for (std::string line; std::getline(lines, line);) {
      if (!line.empty()) text += nlohmann::json({{"text", line}}).dump() + "\n";
    }
    spill(*folder_ / "text.jsonl", text);
    ASSERT_EQ(metala("data prepare " + (*folder_ / "text.jsonl") + " -o " + data()).status, 0);
    spill(*folder_ / "model.yml", R"({
      "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48,
      "seq_length": 32, "norm": "rmsnorm", "make_vocab_size_divisible_by": 64,
      "init_method": "small_init", "output_layer_init_method": "wang_init",
      "optimizer": {"type": "Adam", "params": {"lr": 0.01, "betas": [0.9, 0.95]}},
      "min_lr": 0.001, "lr_decay_style": "cosine", "warmup": 0.1, "precision": "fp32",
      "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2, "train_iters": 12,
      "eval_interval": 6, "eval_iters": 2, "log_interval": 4, "hostfile": "/job/hostfile"
    })");
  }
  static void TearDownTestSuite() { delete folder_; }
  static std::string data() { return *folder_ / "tokens"; }

  // The configuration of where things are, for a run of this name.
  static std::string setup(const std::string& run) {
    const std::string file = *folder_ / (run + ".yml");
    spill(file, "data_path: " + data() + "\nsplit: 90, 5, 5\nsave: " + (*folder_ / run) +
                    "\nload: " + (*folder_ / run) + "\n");
    return "train " + (*folder_ / "model.yml") + " " + file + " ";
  }
  static Folder* folder_;
};
Folder* Pretraining::folder_ = nullptr;

std::string weights(const std::string& run, const char* step = "/step-00000012") {
  return slurp(run + step + "/model.safetensors");
}

TEST_F(Pretraining, AConfigurationTrainsValidatesTestsAndIsKeptWithTheModel) {
  const Outcome o = metala(setup("whole"));
  ASSERT_EQ(o.status, 0) << o.err;
  for (const char* words : {"without effect here: hostfile", "iteration 8/12 | elapsed time",
                            "validation loss", "bits/byte", "test loss", "lr_decay_iters: 12"}) {
    EXPECT_NE(o.err.find(words), std::string::npos) << words << "\n" << o.err;
  }
  const std::string run = *folder_ / "whole";
  const std::string kept = slurp(run + "/step-00000012/run.yml");
  EXPECT_NE(kept.find("train_batch_size: 8\n"), std::string::npos) << kept;
  const auto config = nlohmann::json::parse(slurp(run + "/step-00000012/config.json"));
  EXPECT_EQ(config["vocab_size"], 320);  // 259 ids, padded
  EXPECT_EQ(config["eos_token_id"], 2);
  EXPECT_EQ(metala("generate " + run + " 'The ' -n 8 -q").status, 0);
  // What was kept starts the same run again.
  ASSERT_EQ(metala("train " + run + "/step-00000012/run.yml --set save=" + (*folder_ / "again") +
                   " --set load=" + (*folder_ / "again"))
                .status,
            0);
  EXPECT_TRUE(weights(*folder_ / "again") == weights(run));
}

TEST_F(Pretraining, ARunThatExitsGoesOnWithItsDataWhereItStopped) {
  ASSERT_EQ(metala(setup("undisturbed")).status, 0);
  const std::string parts = setup("parts");
  ASSERT_EQ(metala(parts + "--set exit_interval=5").status, 0);
  EXPECT_TRUE(std::filesystem::exists(*folder_ / "parts/step-00000005/COMPLETE"));
  ASSERT_EQ(metala(parts).status, 0);  // load names the same folder
  EXPECT_TRUE(weights(*folder_ / "parts") == weights(*folder_ / "undisturbed"));
  const Outcome other = metala(parts + "--learning-rate 1e-4 --set min_lr=0");
  EXPECT_EQ(other.status, 1);
  EXPECT_NE(other.err.find("the run was started with"), std::string::npos) << other.err;
  const Outcome deeper = metala(parts + "--set num_layers=3");
  EXPECT_EQ(deeper.status, 1);
  EXPECT_NE(deeper.err.find("its model has num_layers 2, not 3"), std::string::npos) << deeper.err;
  // The folder that files go on in moves with the one they save to.
  const Outcome moved = metala(setup("x") + "--output " + (*folder_ / "parts"));
  EXPECT_EQ(moved.status, 0) << moved.err;
  EXPECT_NE(moved.err.find("saved after step 12"), std::string::npos) << moved.err;
}

TEST_F(Pretraining, FlagsReplaceKeysAndPreparedDataNeedNoConfiguration) {
  const std::string run = *folder_ / "flags";
  ASSERT_EQ(metala(setup("x") + "--output " + run +
                   " --steps 2 --accumulation 1 --sequences 2 --untied --dtype f32")
                .status,
            0);
  const std::string kept = slurp(run + "/step-00000002/run.yml");
  for (const char* line : {"train_iters: 2\n", "train_batch_size: 2\n", "no_weight_tying: true\n",
                           "precision: fp32\n"}) {
    EXPECT_NE(kept.find(line), std::string::npos) << line << kept;
  }
  const std::string plain = *folder_ / "plain";
  const Outcome o = metala("train " + data() + " --width 32 --layers 1 --heads 2 --glu-width 48 " +
                           "--sequence-length 16 --sequences 2 --steps 3 --validation-share 0.1 " +
                           "--validation-batches 2 --reset-at-documents --output " + plain);
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.err.find("validation loss"), std::string::npos) << o.err;
}

// The lines of docs/pretraining.md, at a size that takes seconds.
TEST_F(Pretraining, TheCommandsOfThePageRun) {
  const Folder folder;
  std::filesystem::create_directories(folder / "corpus");
  std::filesystem::copy(METALA_SOURCE_DIR "/configs", folder / "configs");
  std::filesystem::copy(*folder_ / "text.jsonl", folder / "corpus/train.jsonl");
  std::ifstream page(METALA_SOURCE_DIR "/docs/pretraining.md");
  int commands = 0;
  for (std::string line; std::getline(page, line);) {
    if (!line.starts_with("$ metala ")) continue;
    std::string arguments = line.substr(9);
    if (arguments.starts_with("data prepare")) {
      arguments.replace(arguments.find("4096"), 4, "400");
    }
    if (arguments.starts_with("train")) {
      arguments +=
          " --steps 3 --width 32 --layers 1 --heads 1 --glu-width 48 --sequence-length 16"
          " --sequences 2 --set eval_iters=1";
    }
    if (arguments.starts_with("generate")) arguments += " -n 4";
    const Outcome o = metala(arguments, "cd " + (folder / "") + " &&");
    ASSERT_EQ(o.status, 0) << line << "\n" << o.err;
    ++commands;
  }
  EXPECT_EQ(commands, 9);
}

TEST_F(Pretraining, BadConfigurationsAreRefusedInOneLine) {
  const std::string base = setup("bad");
  EXPECT_TRUE(refuses(metala(base + "--set seq_lenght=4"), 1, "did you mean seq_length?"));
  EXPECT_TRUE(refuses(metala(base + "--preset tiny"), 2, "--preset is not for runs with"));
  EXPECT_TRUE(refuses(metala(base + METALA_SOURCE_DIR "/LICENSE"), 2, "not both"));
  EXPECT_TRUE(refuses(metala("train x.txt --set seed=3 --output y"), 2, "metala train CONFIG.yml"));
  const Outcome nowhere = metala(base + "--set data_path=/nonexistent");
  EXPECT_EQ(nowhere.status, 1);
  EXPECT_NE(nowhere.err.find("/nonexistent.idx: no such file"), std::string::npos) << nowhere.err;
  EXPECT_TRUE(refuses(metala(base + "--set data_path=[1]"), 1, "data_path is a list"));
  EXPECT_TRUE(refuses(metala("train /nonexistent.yml"), 1, "/nonexistent.yml: cannot open"));
}

}  // namespace
}  // namespace metala
