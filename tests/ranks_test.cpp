// Training on several ranks through the program, as a user would: what goes wrong on one of them,
// and what it leaves.
#include <signal.h>
#include <unistd.h>

#include <cctype>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "program.h"

namespace metala {
namespace {

using namespace program;
using Clock = std::chrono::steady_clock;
using std::chrono::seconds;

// A busy machine may stand still for a while; what hangs would do so for ten minutes.
constexpr seconds patience(150);

const std::string text = METALA_SOURCE_DIR "/LICENSE";  // a text that stays as it is

std::string options(const std::string& run, const std::string& more) {
  return "train " + text + " --width 32 --layers 2 --heads 2 --glu-width 48 --sequence-length 32 " +
         "--sequences 2 --seed 3 --validate-every 0 --output " + run + " " + more;
}

// The program on so many ranks.
Outcome on_ranks(int ranks, const std::string& arguments) {
  return metala(arguments, METALA_MPIRUN " -n " + std::to_string(ranks));
}

TEST(Ranks, AConfigurationDividesItsBatchAmongThem) {
  const Folder folder;
  std::string lines;
  std::ifstream page(text);
  for (std::string line; std::getline(page, line);) {
    if (!line.empty()) lines += nlohmann::json({{"text", line}}).dump() + "\n";
  }
  spill(folder / "text.jsonl", lines);
  ASSERT_EQ(metala("data prepare " + (folder / "text.jsonl") + " -o " + (folder / "data")).status,
            0);
  spill(folder / "run.yml",
        "num_layers: 2\nhidden_size: 32\nnum_attention_heads: 2\n"
        "intermediate_size: 48\nseq_length: 16\ntrain_batch_size: 8\n"
        "train_micro_batch_size_per_gpu: 2\ntrain_iters: 4\neval_iters: 1\n"
        "optimizer: {params: {lr: 0.001}}\nsplit: 80,10,10\ndata_path: " +
            (folder / "data") + "\n");
  const auto losses = [&](int ranks) {
    const std::string run = folder / ("run" + std::to_string(ranks));
    const Outcome o = on_ranks(ranks, "train " + (folder / "run.yml") + " --output " + run);
    EXPECT_EQ(o.status, 0) << o.err;
    std::vector<double> values;
    std::ifstream metrics(run + "/metrics.jsonl");
    for (std::string line; std::getline(metrics, line);) {
      const auto record = nlohmann::json::parse(line);
      for (const char* name : {"train/lm_loss", "validation/lm_loss", "test/lm_loss"}) {
        if (record.contains(name)) values.push_back(record[name]);
      }
    }
    return values;
  };
  const auto one = losses(1);
  const auto two = losses(2);
  ASSERT_EQ(one.size(), 6u);  // four steps, validation, test
  ASSERT_EQ(two.size(), 6u);
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(one[i], two[i], 1e-4) << i;
  const Outcome three =
      on_ranks(3, "train " + (folder / "run.yml") + " --output " + (folder / "run3"));
  EXPECT_NE(three.status, 0);
  EXPECT_NE(three.err.find("train_batch_size 8 is not"), std::string::npos) << three.err;
}

// Ranks that run while the test watches and disturbs them.
class Background {
 public:
  Background(int ranks, const std::string& arguments) {
    const std::string line = "exec " METALA_MPIRUN " -n " + std::to_string(ranks) + " " +
                             METALA_PROGRAM + " " + arguments + " </dev/null >/dev/null 2>" +
                             (folder_ / "err");
    mpirun_ = fork();
    if (mpirun_ == 0) {
      execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
      _exit(127);
    }
  }
  ~Background() {
    if (!ended_) {
      kill(mpirun_, SIGKILL);
      waitpid(mpirun_, nullptr, 0);
    }
  }

  // Sends a signal to a rank; false when it is not there (any more).
  bool signal_rank(int rank, int signal) const {
    const std::string wanted = "OMPI_COMM_WORLD_RANK=" + std::to_string(rank);
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      if (std::isdigit(entry.path().filename().string().front()) == 0) continue;
      const std::string stat = slurp(entry.path() / "stat");
      const auto name_end = stat.rfind(')');
      if (name_end == std::string::npos) continue;
      int parent = 0;
      if (std::sscanf(stat.c_str() + name_end + 1, " %*c %d", &parent) != 1) continue;
      if (parent != mpirun_) continue;
      const std::string variables = '\0' + slurp(entry.path() / "environ");
      if (variables.find('\0' + wanted + '\0') == std::string::npos) continue;
      return kill(std::stoi(entry.path().filename().string()), signal) == 0;
    }
    return false;
  }

  // Until `holds`, or the ranks have ended, or patience has.
  bool wait_until(const std::function<bool()>& holds) {
    for (const auto until = Clock::now() + patience; Clock::now() < until;) {
      if (holds()) return true;
      if (ended()) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  // The exit status; -1 if the ranks did not end within the limit.
  int wait(seconds limit) {
    for (const auto until = Clock::now() + limit; Clock::now() < until;) {
      if (ended()) return WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return -1;
  }
  std::string err() const { return slurp(folder_ / "err"); }

 private:
  bool ended() {
    if (!ended_) ended_ = waitpid(mpirun_, &status_, WNOHANG) == mpirun_;
    return ended_;
  }

  Folder folder_;
  pid_t mpirun_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

bool has_checkpoint(const std::string& run) {
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(run, none)) {
    if (entry.is_directory(none) && entry.path().extension() != ".partial") return true;
  }
  return false;
}

void remove_half_written(const std::string& run) {
  for (const auto& entry : std::filesystem::directory_iterator(run)) {
    if (entry.path().extension() == ".partial") std::filesystem::remove_all(entry.path());
  }
}

bool is_saving(const std::string& run) {
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(run, none)) {
    if (entry.path().extension() == ".partial") return true;
  }
  return false;
}

std::vector<double> losses(const std::string& run) {
  std::vector<double> all;
  std::ifstream lines(run + "/metrics.jsonl");
  for (std::string line; std::getline(lines, line);) {
    const auto record = nlohmann::json::parse(line);
    if (record.contains("train/lm_loss")) all.push_back(record["train/lm_loss"]);
  }
  return all;
}

TEST(Ranks, ARankKilledInAStepOrASaveEndsTheOthersAndNothingIsLost) {
  const Folder folder;
  const std::string whole = folder / "whole", killed = folder / "killed";
  const std::string length = "--steps 60 --save-every 1";
  ASSERT_EQ(on_ranks(2, options(whole, length)).status, 0);
  {
    Background ranks(2, options(killed, length));
    ASSERT_TRUE(ranks.wait_until([&] { return has_checkpoint(killed); })) << ranks.err();
    ASSERT_TRUE(ranks.signal_rank(1, SIGKILL));
    EXPECT_GT(ranks.wait(patience), 0);
    EXPECT_NE(ranks.err().find("rank 1"), std::string::npos) << ranks.err();
  }
  for (const int victim : {1, 0}) {
    remove_half_written(killed);  // only so that this test sees the next one begin
    Background ranks(2, options(killed, length + " --resume"));
    ASSERT_TRUE(ranks.wait_until([&] { return is_saving(killed); })) << ranks.err();
    ASSERT_TRUE(ranks.signal_rank(victim, SIGKILL));
    EXPECT_GT(ranks.wait(patience), 0);
    EXPECT_NE(ranks.err().find("rank " + std::to_string(victim)), std::string::npos);
  }
  const Outcome last = on_ranks(2, options(killed, length + " --resume"));
  ASSERT_EQ(last.status, 0) << last.err;
  EXPECT_EQ(losses(killed), losses(whole));
  for (const char* file : {"/step-00000060/model.safetensors",
                           "/step-00000060/optimizer-00001-of-00002.safetensors"}) {
    EXPECT_TRUE(slurp(killed + file) == slurp(whole + file)) << file;
  }
}

TEST(Ranks, ARankThatHangsIsNamedByTheOthersWhichEnd) {
  const Folder folder;
  Background ranks(3, options(folder / "run", "--steps 100000 --communication-timeout 1"));
  ASSERT_TRUE(ranks.wait_until([&] { return losses(folder / "run").size() > 3; })) << ranks.err();
  // Again and again: whoever continues processes here must not end the silence.
  ranks.wait_until([&] { return !ranks.signal_rank(1, SIGSTOP); });
  EXPECT_GT(ranks.wait(patience), 0);
  EXPECT_NE(ranks.err().find("metala: rank 0 of 3: "), std::string::npos) << ranks.err();
  // It alone: not those who wait for it, too.
  EXPECT_NE(ranks.err().find(": rank 1 does not answer"), std::string::npos) << ranks.err();
}

TEST(Ranks, TwoRanksSaveFourOrOneGoOn) {
  const Folder folder;
  const std::string whole = folder / "whole";
  ASSERT_EQ(on_ranks(2, options(whole, "--steps 30 --save-every 15 --accumulation 2")).status, 0);
  const auto want = losses(whole);
  std::filesystem::remove_all(whole + "/step-00000030");
  const auto goes_on = [&](int ranks, const std::string& more) {
    const std::string run = folder / ("on" + std::to_string(ranks) + more.substr(more.size() - 1));
    std::filesystem::copy(whole, run, std::filesystem::copy_options::recursive);
    const Outcome o = on_ranks(ranks, options(run, "--steps 30 --resume " + more));
    EXPECT_EQ(o.status, 0) << o.err;
    const auto got = losses(run);
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-4) << i;
  };
  goes_on(1, "--accumulation 4");
  goes_on(4, "--accumulation 1");
  goes_on(4, "--accumulation 2 --context-ranks 2");
  const Outcome other = on_ranks(1, options(whole, "--steps 30 --resume --accumulation 2"));
  EXPECT_EQ(other.status, 1);
  EXPECT_NE(other.err.find("started with micro_batches 4, now 2"), std::string::npos) << other.err;
}

TEST(Ranks, ASignalSavesAndStopsAllOfThem) {
  const Folder folder;
  const std::string run = folder / "run";
  Background ranks(2, options(run, "--steps 100000 --save-every 0"));
  ASSERT_TRUE(ranks.wait_until([&] { return losses(run).size() > 3; })) << ranks.err();
  ASSERT_TRUE(ranks.signal_rank(1, SIGUSR1));
  EXPECT_EQ(ranks.wait(patience), 0) << ranks.err();
  EXPECT_TRUE(has_checkpoint(run));
  EXPECT_NE(ranks.err().find("go on with --resume"), std::string::npos) << ranks.err();
}

TEST(Ranks, AFolderHasOneRunAtATime) {
  const Folder folder;
  const std::string run = folder / "run";
  Background ranks(2, options(run, "--steps 100000"));
  ASSERT_TRUE(ranks.wait_until([&] { return losses(run).size() > 1; })) << ranks.err();
  EXPECT_TRUE(refuses(metala(options(run, "")), 1, "is training in it"));
  EXPECT_TRUE(refuses(metala(options(run, "--resume")), 1, "is training in it"));
}

TEST(Ranks, DifferentProgramsOptionsOrFilesAreRefusedInOneError) {
  const Folder folder;
  const auto pair = [&](const std::string& first, const std::string& second) {
    const std::string line = std::string(METALA_MPIRUN) + " -n 1 " + first + " : -n 1 " + second +
                             " </dev/null >/dev/null 2>" + (folder / "err");
    EXPECT_NE(std::system(line.c_str()), 0);
    return slurp(folder / "err");
  };
  const std::string program = METALA_PROGRAM " ";
  const std::string other = folder / "metala";
  std::filesystem::copy(METALA_PROGRAM, other);
  std::ofstream(other, std::ios::app) << "another build";
  const std::string run = options(folder / "run", "");
  EXPECT_NE(pair(program + run, other + " " + run).find("rank 1 has another program than rank 0"),
            std::string::npos);
  const std::string clips = pair(program + run, program + options(folder / "run", "--clip 2"));
  EXPECT_NE(clips.find("rank 1 has another clip than rank 0: 2.0 against 1.0; start every rank"),
            std::string::npos)
      << clips;
  const auto count = [](const std::string& all, const std::string& word) {
    std::size_t n = 0;
    for (auto at = all.find(word); at != std::string::npos; at = all.find(word, at + 1)) ++n;
    return n;
  };
  EXPECT_EQ(count(clips, "metala: "), 1u) << clips;
  const std::string kinds =
      pair(program + run, program + "train --task mqar --output " + (folder / "run"));
  EXPECT_NE(kinds.find("rank 1 has another kind of run than rank 0"), std::string::npos) << kinds;
  const std::string absent = pair(program + options(folder / "run", "") + " /nonexistent",
                                  program + options(folder / "run", "") + " /nonexistent");
  EXPECT_EQ(count(absent, "/nonexistent: "), 1u) << absent;
  const std::string misused = pair(program + "train --frobnicate", program + "train --frobnicate");
  EXPECT_EQ(count(misused, "no option --frobnicate"), 1u) << misused;
}

}  // namespace
}  // namespace metala
