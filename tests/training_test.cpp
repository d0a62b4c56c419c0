// Training and generating through the program, as a user would.
#include <nlohmann/json.hpp>

#include "program.h"

namespace metala {
namespace {

using namespace program;

const std::string text = METALA_SOURCE_DIR "/LICENSE";  // a text that stays as it is

// A model of a few thousand parameters that trains in a second or two.
std::string train(const std::string& folder, const std::string& more) {
  return "train " + text + " --width 32 --layers 2 --heads 2 --glu-width 48 --sequence-length 32 " +
         "--sequences 4 --seed 3 --validate-every 0 --output " + folder + " " + more;
}

// The metrics that do not tell the time, line by line.
std::string metrics_of(const std::string& run) {
  std::ifstream lines(run + "/metrics.jsonl");
  std::string kept;
  for (std::string line; std::getline(lines, line);) {
    const auto record = nlohmann::json::parse(line);
    // What saving cost is a record of its own, which a kill may leave out or repeat.
    bool timeless = false;
    for (const char* name : {"train/lm_loss", "train/gradient_norm", "train/learning_rate",
                             "validation/lm_loss", "validation/accuracy"}) {
      if (!record.contains(name)) continue;
      kept += record[name].dump() + " ";
      timeless = true;
    }
    if (timeless) kept += "\n";
  }
  return kept;
}

// A limit on the size of files stands in for a full disk: writes fail in the middle.
const std::string no_large_files = "trap '' XFSZ; ulimit -f 8;";

TEST(Training, AResumedRunEndsWithTheBitsOfAnUndisturbedOne) {
  const Folder folder;
  ASSERT_EQ(metala(train(folder / "whole", "--steps 12")).status, 0);
  // The same run, killed in step 7 after the checkpoint of step 6, then resumed.
  const std::string parts = folder / "parts";
  ASSERT_EQ(metala(train(parts, "--steps 12 --save-every 6 --keep 0")).status, 0);
  std::filesystem::remove_all(parts + "/step-00000012");
  std::filesystem::create_directories(parts + "/step-00000009");  // a folder that is not complete
  spill(parts + "/step-00000009/COMPLETE", "{\"model.safetensors\": 5}");
  ASSERT_EQ(metala(train(parts, "--steps 12 --resume")).status, 0);
  for (const std::string file : {"/model.safetensors", "/optimizer.safetensors"}) {
    const std::string last = "/step-00000012" + file;
    EXPECT_TRUE(slurp(parts + last) == slurp((folder / "whole") + last)) << file;
  }
}

TEST(Training, ResumingARunThatIsDoneChangesNothing) {
  const Folder folder;
  const std::string run = folder / "run";
  const std::string short_run = train(run, "--steps 4 --save-every 2");
  ASSERT_EQ(metala(short_run).status, 0);
  const std::string marker = run + "/step-00000004/COMPLETE";
  const auto written = std::filesystem::last_write_time(marker);
  const std::string metrics = slurp(run + "/metrics.jsonl");
  const Outcome again = metala(short_run + " --resume");
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_NE(again.err.find("saved after step 4"), std::string::npos) << again.err;
  EXPECT_EQ(std::filesystem::last_write_time(marker), written);
  EXPECT_EQ(slurp(run + "/metrics.jsonl"), metrics);
}

TEST(Training, AGradientThatIsNotFiniteNamesStepAndTensorAndLeavesTheLastCheckpoint) {
  const Folder folder;
  const std::string run = folder / "run";
  const Outcome o =
      metala(train(run, "--steps 8 --save-every 1 --keep 0 --warmup 0 --learning-rate 1e30"));
  EXPECT_EQ(o.status, 1) << o.err;
  const auto at = o.err.find("train: step ");
  ASSERT_NE(at, std::string::npos) << o.err;
  const std::string line = o.err.substr(at);
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
  EXPECT_NE(line.find("the gradient of model."), std::string::npos) << line;
  EXPECT_NE(line.find("the last checkpoint is intact"), std::string::npos) << line;
  const int failed = std::stoi(line.substr(std::string("train: step ").size()));
  ASSERT_GT(failed, 1);
  char name[32];
  std::snprintf(name, sizeof(name), "/step-%08d", failed - 1);
  EXPECT_EQ(metala("inspect " + run + name).status, 0);
  EXPECT_TRUE(std::filesystem::exists(run + name + "/COMPLETE"));
}

TEST(Training, KillsAtAnyMomentLoseNothing) {
  const Folder folder;
  const std::string options = "--steps 24 --save-every 2";
  ASSERT_EQ(metala(train(folder / "whole", options)).status, 0);
  const std::string run = folder / "killed";
  int kills = 0;
  // Ever later, until the run reaches its end also on a busy machine.
  for (double seconds = 0.004; seconds < 60; seconds += 0.002 + seconds / 30) {
    const std::string limit = "timeout -s KILL " + std::to_string(seconds);
    bool resumable = false;
    if (std::filesystem::exists(run)) {
      for (const auto& entry : std::filesystem::directory_iterator(run)) {
        resumable |= std::filesystem::exists(entry.path() / "COMPLETE") &&
                     entry.path().extension() != ".partial";
      }
      if (!resumable) std::filesystem::remove_all(run);
    }
    Outcome o;
    do {  // until the process that was killed before is gone
      o = metala(train(run, options + (resumable ? " --resume" : "")), limit);
    } while (o.status == 1 && o.err.find("is training in it") != std::string::npos);
    if (o.status == 0) break;
    ASSERT_EQ(o.status, 137) << o.err;  // killed, and nothing else went wrong
    ++kills;
  }
  EXPECT_GT(kills, 5);
  for (const std::string file : {"/model.safetensors", "/optimizer.safetensors"}) {
    const std::string last = "/step-00000024" + file;
    EXPECT_TRUE(slurp(run + last) == slurp((folder / "whole") + last)) << file;
  }
  EXPECT_EQ(metrics_of(run), metrics_of(folder / "whole"));
}

TEST(Training, AFullDiskIsReportedAndTheLastCheckpointStays) {
  const Folder folder;
  const std::string run = folder / "run";
  ASSERT_EQ(metala(train(run, "--steps 2")).status, 0);
  const Outcome full = metala(train(folder / "full", "--steps 2"), no_large_files);
  EXPECT_EQ(full.status, 1);
  EXPECT_NE(full.err.find("write failed"), std::string::npos) << full.err;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "full")) {
    EXPECT_FALSE(entry.is_directory()) << entry.path();  // no half-written checkpoint
  }
  const std::string state = folder / "state";
  spill(state, "what was there");
  const Outcome generated =
      metala("generate " + run + " hi -n 1 -q --save-state " + state, no_large_files);
  EXPECT_EQ(generated.status, 1);
  EXPECT_NE(generated.err.find("write failed"), std::string::npos) << generated.err;
  EXPECT_EQ(slurp(state), "what was there");
}

TEST(Training, ADamagedCheckpointIsRefusedByName) {
  const Folder folder;
  const std::string run = folder / "run";
  ASSERT_EQ(metala(train(run, "--steps 4 --save-every 2 --keep 0")).status, 0);
  const std::string optimizer = run + "/step-00000004/optimizer.safetensors";
  std::string bytes = slurp(optimizer);
  bytes[bytes.size() - 10] ^= 1;
  spill(optimizer, bytes);
  const Outcome damaged = metala(train(run, "--steps 4 --resume"));
  EXPECT_EQ(damaged.status, 1);
  EXPECT_NE(damaged.err.find("optimizer.safetensors: is damaged (checksum"), std::string::npos)
      << damaged.err;
  std::filesystem::remove_all(run + "/step-00000004");
  EXPECT_EQ(metala(train(run, "--steps 4 --resume")).status, 0);
  EXPECT_NE(slurp(optimizer), bytes);
}

TEST(Training, StepsThatStandOutAreLeftOut) {
  const Folder folder;
  const std::string run = folder / "run";
  // A bound near 0 and a loss that stays: once there are 128 steps every second one stands out.
  const Outcome o = metala(train(run, "--steps 140 --skip-spikes 0.01 --learning-rate 1e-9"));
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.err.find("left out: loss"), std::string::npos) << o.err;
  EXPECT_NE(slurp(run + "/metrics.jsonl").find("\"train/skipped\":1"), std::string::npos);
}

TEST(Training, TheLossFallsAndTheRunLeavesMetricsCurveAndAWholeModel) {
  const Folder folder;
  const std::string run = folder / "run";
  ASSERT_EQ(metala(train(run, "--steps 60 --learning-rate 1e-2 --accumulation 2")).status, 0);
  std::ifstream lines(run + "/metrics.jsonl");
  std::vector<double> losses;
  for (std::string line; std::getline(lines, line);) {
    const auto record = nlohmann::json::parse(line);
    if (record.contains("train/lm_loss")) losses.push_back(record["train/lm_loss"]);
  }
  ASSERT_EQ(losses.size(), 60u);
  EXPECT_NEAR(losses.front(), 5.6, 0.3);  // ln 259 and half the variance of the logits
  EXPECT_LT(losses.back(), 3.3);
  EXPECT_TRUE(slurp(run + "/loss.svg").starts_with("<svg"));
  const std::string model = run + "/step-00000060";
  for (const char* file : {"config.json", "tokenizer_config.json", "trainer.json", "COMPLETE"}) {
    EXPECT_TRUE(std::filesystem::exists(model + "/" + file)) << file;
  }
  EXPECT_TRUE(refuses(metala(train(run, "--steps 5")), 1, "--resume"));
  const Outcome other =
      metala(train(run, "--steps 90 --resume --learning-rate 1e-2 --accumulation 2"));
  EXPECT_EQ(other.status, 1);
  EXPECT_NE(other.err.find("the run was started with steps 60, now 90"), std::string::npos);
  std::string deeper = train(run, "--steps 60 --resume --learning-rate 1e-2 --accumulation 2");
  deeper.replace(deeper.find("--layers 2"), 10, "--layers 3");
  EXPECT_NE(metala(deeper).err.find("its model has --layers 2, not 3"), std::string::npos);
  const std::string resumed = "train " + text + " --resume --steps 60 --output " + run;
  const std::string sized = resumed + " --width 32 --heads 2 --glu-width 48";
  EXPECT_NE(metala(sized + " --preset small").err.find("its model has --preset's layers 2, not 6"),
            std::string::npos);
  EXPECT_NE(metala(resumed + " --untied").err.find("its model has --untied false, not true"),
            std::string::npos);
}

class Generation : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new Folder;
    model_ = *folder_ / "run";
    ASSERT_EQ(metala(train(model_, "--steps 10")).status, 0);
  }
  static void TearDownTestSuite() { delete folder_; }
  static nlohmann::json json(const std::string& arguments) {
    const Outcome o = metala("generate " + model_ + " --json " + arguments);
    EXPECT_EQ(o.status, 0) << o.err;
    return nlohmann::json::parse(o.out);
  }
  static std::vector<int> ids(const nlohmann::json& result, int sequence = 0) {
    return result["sequences"][static_cast<std::size_t>(sequence)]["ids"];
  }
  static Folder* folder_;
  static std::string model_;
};
Folder* Generation::folder_ = nullptr;
std::string Generation::model_;

TEST_F(Generation, ASeedGivesTheSameTextAndAnotherSeedAnother) {
  const std::string prompt = "'The state' -n 20 --ignore-end ";
  EXPECT_EQ(ids(json(prompt + "--seed 5")), ids(json(prompt + "--seed 5")));
  EXPECT_NE(ids(json(prompt + "--seed 5")), ids(json(prompt + "--seed 6")));
}

TEST_F(Generation, PromptsOfABatchGiveWhatTheyGiveAlone) {
  const auto together = json("'One' 'A much longer second prompt' --greedy -n 12 --ignore-end");
  EXPECT_EQ(ids(together, 0), ids(json("'One' --greedy -n 12 --ignore-end")));
  EXPECT_EQ(ids(together, 1),
            ids(json("'A much longer second prompt' --greedy -n 12 --ignore-end")));
}

TEST_F(Generation, ASavedStateContinuesWhereItStopped) {
  const std::string state = *folder_ / "state.safetensors";
  const auto whole = ids(json("'Memory of' --greedy -n 20 --ignore-end"));
  auto parts = ids(json("'Memory of' --greedy -n 8 --ignore-end --save-state " + state));
  const auto rest = ids(json("--greedy -n 12 --ignore-end --load-state " + state));
  parts.insert(parts.end(), rest.begin(), rest.end());
  EXPECT_EQ(parts, whole);
  // A fork for each of two prompts.
  const auto forks = json("' and' ' or' --greedy -n 4 --ignore-end --load-state " + state);
  EXPECT_EQ(forks["sequences"].size(), 2u);
}

TEST_F(Generation, ASavedStateKnowsWhatTheRepetitionPenaltyLooksAt) {
  const std::string state = *folder_ / "penalised.safetensors";
  const std::string flags = " --repetition-penalty 3 --temperature 0 --ignore-end ";
  const auto whole = ids(json("'Memory of'" + flags + "-n 24"));
  auto parts = ids(json("'Memory of'" + flags + "-n 8 --save-state " + state));
  for (int part = 0; part < 2; ++part) {
    const auto next = ids(json(flags + "-n 8 --load-state " + state + " --save-state " + state));
    parts.insert(parts.end(), next.begin(), next.end());
  }
  EXPECT_EQ(parts, whole);
}

TEST_F(Generation, StopStringsEndTheTextAndLogprobsComeWithEachToken) {
  const auto free = json("'The' --greedy -n 30 --ignore-end --logprobs 3");
  const std::string drawn = free["sequences"][0]["text"];
  ASSERT_GT(drawn.size(), 4u);
  const auto& tokens = free["sequences"][0]["tokens"];
  ASSERT_EQ(tokens.size(), 30u);
  EXPECT_EQ(tokens[0]["top"].size(), 3u);
  EXPECT_EQ(tokens[0]["top"][0]["id"], tokens[0]["id"]);  // greedy draws the likeliest
  EXPECT_LE(tokens[0]["logprob"].get<double>(), 0);
  const std::string stop(1, drawn[3]);
  spill(*folder_ / "prompt", "The");
  const auto stopped = json("--prompt-file " + (*folder_ / "prompt") +
                            " --greedy -n 30 --ignore-end --stop '" + stop + "'");
  EXPECT_EQ(stopped["sequences"][0]["text"], drawn.substr(0, drawn.find(stop)));
  EXPECT_EQ(stopped["sequences"][0]["finish"], "stop");
}

TEST_F(Generation, TextGoesToStdoutAndTalkToStderr) {
  const Outcome o = metala("generate " + model_ + " hello --greedy -n 5 --ignore-end");
  EXPECT_EQ(o.status, 0);
  EXPECT_FALSE(o.out.empty());
  EXPECT_NE(o.err.find("tok/s"), std::string::npos);
  EXPECT_EQ(metala("generate " + model_ + " hello --greedy -n 5 --ignore-end -q").err, "");
}

TEST_F(Generation, TextIsWrittenWholeAlsoWhereItHoldsZeroBytes) {
  const std::string noise = "hello --temperature 100 -n 2000 --ignore-end --seed 1";
  const std::string drawn = json(noise)["sequences"][0]["text"];
  ASSERT_NE(drawn.find('\0'), std::string::npos);
  EXPECT_EQ(metala("generate " + model_ + " " + noise).out, drawn + "\n");
}

TEST_F(Generation, AnEmptyPromptStartsATextAndBytesThatAreNotUtf8AreRead) {
  EXPECT_EQ(metala("generate " + model_ + " '' --greedy -n 3").status, 0);
  spill(*folder_ / "broken", "\xff\xfe\xc3");
  EXPECT_EQ(metala("generate " + model_ + " --greedy -n 3 < " + (*folder_ / "broken")).status, 0);
}

TEST_F(Generation, BadRequestsAreRefusedInOneLine) {
  const std::string base = "generate " + model_ + " hi ";
  for (const char* flag : {"--top-p 0", "--top-p nan", "--temperature -1", "--min-p 2",
                           "--top-k -1", "--repetition-penalty 0", "--stop ''"}) {
    EXPECT_TRUE(refuses(metala(base + flag), 2, "wanted")) << flag;
  }
  const Outcome device = metala(base + "--save-state /dev/null -n 1 -q");
  EXPECT_EQ(device.status, 1);
  EXPECT_NE(device.err.find("/dev/null: cannot write: it is not a regular file"),
            std::string::npos);
  EXPECT_TRUE(refuses(metala(base + "--load-state /nonexistent"), 1, "/nonexistent"));
  const Outcome unwritable = metala(base + "--save-state /nonexistent/s -n 1 -q");
  EXPECT_EQ(unwritable.status, 1);
  EXPECT_NE(unwritable.err.find("/nonexistent/s: cannot write"), std::string::npos);
  const std::string golden = METALA_SOURCE_DIR "/tests/golden/tiny";
  EXPECT_TRUE(refuses(metala("generate " + golden + " hi"), 1, "no tokenizer"));
  EXPECT_TRUE(refuses(metala("generate " + model_ + "/step-00000010/config.json hi"), 1, "model"));
}

TEST_F(Generation, AChatSavedInOneProcessContinuesInAnotherAsIfUndisturbed) {
  const std::string chat = "chat " + model_ + " --temperature 0 -n 12 < ";
  const std::string file = *folder_ / "talk.safetensors";
  spill(*folder_ / "whole", "One\nTwo\n");
  spill(*folder_ / "first", "One\n/save " + file + "\nNot\n/undo\n/exit\nnever read\n");
  spill(*folder_ / "second", "/load " + file + "\nTwo\n");
  const Outcome whole = metala(chat + (*folder_ / "whole"));
  const Outcome first = metala(chat + (*folder_ / "first"));
  const Outcome second = metala(chat + (*folder_ / "second"));
  ASSERT_EQ(whole.status + first.status + second.status, 0) << first.err << second.err;
  EXPECT_TRUE(whole.out.starts_with(first.out.substr(0, 5)));
  EXPECT_TRUE(whole.out.ends_with(second.out));
  EXPECT_GT(second.out.size(), 1u);
  // generate reads it too, from where it stands.
  EXPECT_EQ(json("-n 3 --load-state " + file)["sequences"].size(), 1u);
}

TEST_F(Generation, FlagsGoBeforeWhatASavedChatSays) {
  const std::string file = *folder_ / "chat.safetensors";
  spill(*folder_ / "script", "One\n/save " + file + "\n");
  const std::string chat = "chat " + model_ + " < " + (*folder_ / "script");
  ASSERT_EQ(metala(chat + " --temperature 0 --top-k 7 -n 4 --seed 5").status, 0);
  spill(*folder_ / "script", "/params\n");
  const Outcome as_saved = metala(chat + " --load " + file);
  EXPECT_NE(as_saved.out.find("temperature 0 | top_k 7 "), std::string::npos) << as_saved.out;
  EXPECT_NE(as_saved.out.find("seed 5 | max_tokens 4\n"), std::string::npos) << as_saved.out;
  const Outcome asked = metala(chat + " --temperature 0.5 -n 6 --seed 8 --load " + file);
  EXPECT_NE(asked.out.find("temperature 0.5 | top_k 7 "), std::string::npos) << asked.out;
  EXPECT_NE(asked.out.find("seed 8 | max_tokens 6\n"), std::string::npos) << asked.out;
}

TEST_F(Generation, ParametersAreTakenAsTheyAreShown) {
  const std::string most = "18446744073709551615";
  spill(*folder_ / "script", "/params seed " + most + "\n/params top_p 0.25\n");
  const Outcome o = metala("chat " + model_ + " < " + (*folder_ / "script"));
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.out.find("top_p 0.25 "), std::string::npos) << o.out;
  EXPECT_NE(o.out.find("seed " + most), std::string::npos) << o.out;
  for (const char* wrong : {"seed -1", "max_tokens 1.5", "top_k 2147483648", "temperature x"}) {
    spill(*folder_ / "script", std::string("/params ") + wrong + "\n");
    EXPECT_TRUE(
        refuses(metala("chat " + model_ + " < " + (*folder_ / "script")), 1, "; wanted a "));
  }
}

TEST_F(Generation, ALineThatGoesOnWhereTheInputEndsIsSent) {
  const auto answers = [&](const std::string& script) {
    spill(*folder_ / "script", script);
    const Outcome o = metala("chat " + model_ + " --temperature 0 -n 4 < " + (*folder_ / "script"));
    EXPECT_EQ(o.status, 0) << o.err;
    return o.out;
  };
  const std::string whole = answers("One\n");
  EXPECT_FALSE(whole.empty());
  EXPECT_EQ(answers("One\\\n"), whole);
  EXPECT_EQ(answers("One\\"), whole);
  EXPECT_EQ(answers("\\\n"), "");
}

TEST_F(Generation, AChatFollowsTheFoldersTemplate) {
  const std::string folder = *folder_ / "templated";
  std::filesystem::copy(model_ + "/step-00000010", folder);
  spill(folder + "/chat_template.jinja",
        "{{ raise_exception('rendered ' ~ messages[0].content) }}");
  spill(*folder_ / "script", "hello\n");
  const std::string input = " < " + (*folder_ / "script");
  EXPECT_TRUE(refuses(metala("chat " + folder + input), 1, "rendered hello"));
  EXPECT_EQ(metala("chat " + folder + " --plain -n 3" + input).status, 0);
}

TEST_F(Generation, AScriptedChatStopsAtItsFirstErrorInOneLine) {
  spill(*folder_ / "script", "/undo\nnever read\n");
  EXPECT_TRUE(refuses(metala("chat " + model_ + " < " + (*folder_ / "script")), 1, "undo"));
  spill(*folder_ / "script", "/params top_k 1e300\n");
  EXPECT_TRUE(refuses(metala("chat " + model_ + " < " + (*folder_ / "script")), 1, "top_k is 1e"));
  spill(*folder_ / "script", "/frobnicate\n");
  EXPECT_TRUE(refuses(metala("chat " + model_ + " < " + (*folder_ / "script")), 1, "/help"));
}

TEST(Training, ATextTooShortToValidateOnReportsNoValidation) {
  const Folder folder;
  spill(folder / "short.txt", "a text of a few words");
  const std::string run = folder / "run";
  const Outcome o =
      metala("train " + (folder / "short.txt") + " --preset nano --steps 2 --output " + run);
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.err.find("validating on nothing"), std::string::npos) << o.err;
  EXPECT_EQ(slurp(run + "/metrics.jsonl").find("validation"), std::string::npos);
}

TEST(Training, ARunFromAModelKeepsItsTemplateAndHowItIsDrawnFrom) {
  const Folder folder;
  const std::string first = folder / "first", tuned = folder / "tuned";
  ASSERT_EQ(metala(train(first, "--steps 1")).status, 0);
  const std::string model = first + "/step-00000001";
  spill(model + "/chat_template.jinja", "a template");
  spill(model + "/generation_config.json", R"({"top_k": 5})");
  const std::string line = "train " + text + " --sequence-length 32 --sequences 4 --keep 1" +
                           " --steps 2 --save-every 1 --init-from " + first + " -o " + tuned;
  ASSERT_EQ(metala(line).status, 0);
  std::filesystem::remove_all(first);
  EXPECT_EQ(slurp(tuned + "/step-00000002/chat_template.jinja"), "a template");
  EXPECT_EQ(slurp(tuned + "/step-00000002/generation_config.json"), R"({"top_k": 5})");
}

TEST(Training, TheSecondBetaIsTheOneAskedFor) {
  const Folder folder;
  const auto betas = [&](const std::string& more) {
    const std::string run = folder / std::to_string(more.size());
    EXPECT_EQ(metala("train --task mqar --steps 1 --validate-every 0 -o " + run + more).status, 0);
    return nlohmann::json::parse(slurp(run + "/step-00000001/trainer.json"))["betas"].dump();
  };
  EXPECT_EQ(betas(""), "[0.9,0.999]");
  EXPECT_EQ(betas(" --beta2 0.9"), "[0.9,0.9]");
}

TEST(TrainingMisuse, IsRefusedInOneLine) {
  const Folder folder;
  spill(folder / "empty.txt", "");
  spill(folder / "broken.txt", "ok \xff");
  const std::string out = " --output " + (folder / "run");
  EXPECT_TRUE(refuses(metala("train --output " + (folder / "run")), 2, "no text"));
  EXPECT_TRUE(refuses(metala("train " + text), 2, "--output"));
  EXPECT_TRUE(refuses(metala("train /nonexistent" + out), 1, "/nonexistent"));
  EXPECT_NE(metala("train " + (folder / "broken.txt") + out).err.find("byte 3 is not UTF-8"),
            std::string::npos);
  EXPECT_NE(metala("train " + (folder / "empty.txt") + out).err.find("has 0 tokens"),
            std::string::npos);
  spill(folder / "foreign.jsonl", R"({"ids": [1, 999999, 3, 4], "labels": [1, 2, 3, 4]})");
  EXPECT_TRUE(refuses(metala("train " + (folder / "foreign.jsonl") + out), 1, "hold 999999"));
  spill(folder / "answers.jsonl", R"({"ids": [1, 2, 3, 4], "labels": [1, 999999, 3, 4]})");
  EXPECT_TRUE(refuses(metala("train " + (folder / "answers.jsonl") + out), 1, "hold 999999"));
  EXPECT_EQ(metala("train " + (folder / "empty.txt") + out).status, 1);
  EXPECT_EQ(metala("train " + text + " --heads 3 --width 32" + out).status, 1);
  EXPECT_TRUE(
      refuses(metala("train " + text + " --task mqar" + out), 2, "inputs is not for --task"));
  EXPECT_TRUE(refuses(metala("train " + text + " --init-from x --width 64" + out), 2,
                      "--width is not for --init-from"));
  for (const char* flag : {"--sequence-length 9", "--reset-at-documents", "--text-field x"}) {
    EXPECT_TRUE(
        refuses(metala("train --task mqar " + std::string(flag) + out), 2, "is not for --task"));
  }
  EXPECT_TRUE(refuses(metala("train " + text + " --mqar-pairs 3" + out), 2, "is for --task mqar"));
  EXPECT_TRUE(refuses(metala("train " + text + " --validation-batches 3" + out), 2,
                      "--validation-batches is for prepared data"));
  EXPECT_TRUE(refuses(metala("train " + text + " --validation x --validation-share 0.1" + out), 2,
                      "--validation-share is not for --validation"));
  EXPECT_EQ(metala("train " + text + " --output /proc/metala").status, 1);
  EXPECT_TRUE(refuses(metala("train " + text + out + " --resume"), 1, "no complete checkpoint"));
}

}  // namespace
}  // namespace metala
