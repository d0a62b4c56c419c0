// The command line refuses what it does not understand: status 2, one line, what to do.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "program.h"

namespace metala {
namespace {

using namespace program;

TEST(Program, AnUnknownOptionIsRefusedWithTheNearestMatch) {
  EXPECT_TRUE(refuses(metala("train --sequence-lenght 5"), 2,
                      "metala train: no option --sequence-lenght; did you mean --sequence-length?"
                      " See metala train --help."));
}

TEST(Program, AnUnknownCommandIsRefusedWithTheNearestMatch) {
  EXPECT_TRUE(refuses(metala("genrate"), 2, "did you mean generate?"));
}

TEST(Program, WordsInBracketsAreNoLists) {
  const std::string shipped = METALA_SOURCE_DIR "/models/debian-en";
  const auto prompts = [&](const std::string& words) {
    const Outcome o = metala("generate --json -n 1 " + shipped + " " + words);
    EXPECT_EQ(o.status, 0) << o.err;
    const auto report = nlohmann::json::parse(o.out);
    std::vector<std::string> all;
    for (const auto& s : report["sequences"]) all.push_back(s["prompt"]);
    return all;
  };
  EXPECT_EQ(prompts("'[INST] a, b [/INST]' []"),
            (std::vector<std::string>{"[INST] a, b [/INST]", "[]"}));
  EXPECT_TRUE(refuses(metala("bench decode --batch [3]"), 2, "--batch: is [3]; wanted"));
  EXPECT_TRUE(refuses(metala("genrate]"), 2, "no command genrate]; did you mean generate?"));
}

TEST(Program, AnOptionTakesOneTextAndLeavesThePromptBehindIt) {
  const std::string shipped = METALA_SOURCE_DIR "/models/debian-en";
  const Outcome o = metala("generate --json -n 1 " + shipped + " --stop x --stop=[y] hello");
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_EQ(nlohmann::json::parse(o.out)["sequences"][0]["prompt"], "hello");
}

TEST(Program, AMissingCommandIsMisuse) {
  EXPECT_TRUE(refuses(metala(""), 2, "metala --help"));
}

TEST(Program, AValueOutOfRangeIsMisuse) {
  EXPECT_TRUE(refuses(metala("bench decode --batch 0"), 2, "--batch: is 0; wanted"));
  for (const char* option : {"--batch", "--context", "--steps", "--tokens", "--repetitions"}) {
    EXPECT_TRUE(refuses(metala(std::string("bench ") + option + " 9223372036854775807"), 2,
                        option + std::string(": is 9223372036854775807; wanted a number from ")));
  }
  for (const char* option : {"--rank", "--ranks", "--local-rank", "--communication-timeout"}) {
    for (const char* value : {"4294967296", "inf", "nan"}) {
      EXPECT_TRUE(refuses(metala(fmt::format("train x -o y {} {}", option, value)), 2,
                          fmt::format("{}: is {}; wanted a number ", option, value)));
    }
  }
  EXPECT_TRUE(refuses(metala("train x -o y --stop-at-accuracy nan"), 2, "wanted a number"));
  EXPECT_TRUE(refuses(metala("bench nothing"), 2, "what: nothing"));
  EXPECT_TRUE(refuses(metala("plot run -o curve.jpg"), 2, "drawings are written as .svg or .png"));
}

TEST(Program, NumbersThatDoNotFitAreRefusedAndNotCut) {
  const std::string shipped = METALA_SOURCE_DIR "/models/debian-en";
  const std::string largest = "18446744073709551615";
  const Outcome o = metala("generate --json -n 1 " + shipped + " hello --seed " + largest);
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_EQ(nlohmann::json::parse(o.out)["seed"].dump(), largest);
  for (const char* seed : {"18446744073709551616", "-1", "1.5"}) {
    for (const char* command : {"generate x y", "chat x", "train x -o y"}) {
      EXPECT_TRUE(refuses(metala(std::string(command) + " --seed=" + seed), 2,
                          std::string("--seed: is ") + seed + "; wanted a whole number"));
    }
  }
  EXPECT_TRUE(refuses(metala("train x -o y --steps 9223372036854775808"), 2, "below 2^63"));
}

TEST(Program, OptionsWithoutEffectAreMisuse) {
  for (const char* command :
       {"data prepare x -o y --vocab-size 500", "train x -o y --vocab-size 500"}) {
    EXPECT_TRUE(refuses(metala(command), 2, "--vocab-size is for --tokenizer sentencepiece"));
  }
  EXPECT_TRUE(refuses(metala("train x -o y --master a:1"), 2, "--master needs --ranks"));
  EXPECT_TRUE(refuses(metala("train x -o y --local-rank 1"), 2, "--local-rank needs --ranks"));
  EXPECT_TRUE(refuses(metala("data show x --ids --tokenizer y"), 2, "excludes"));
  EXPECT_TRUE(refuses(metala("plot x -o x.svg --width 50"), 2, "--width is for the terminal"));
  EXPECT_TRUE(refuses(metala("plot x -o x.svg --height 9"), 2, "--height is for the terminal"));
  for (const char* option : {"decode", "--weights q8", "--batch 2", "--sequences 3"}) {
    const std::string name = std::string(option) == "decode" ? "what" : option;
    EXPECT_TRUE(refuses(metala(std::string("bench --compare --width 3 ") + option), 2,
                        name.substr(0, name.find(' ')) + " is not for --compare"));
  }
  for (const char* command :
       {"ops --width 3", "ops --weights q8", "ops --device cuda", "ops --compare", "ops --steps 3",
        "decode --tokens 3", "decode --sequences 3", "decode --repetitions 3", "prefill --batch 3",
        "prefill --context 3", "prefill --sequences 3", "train --steps 3", "train --batch 3"}) {
    const std::string option = std::string(command).substr(std::string(command).find("--"));
    EXPECT_TRUE(refuses(metala(std::string("bench ") + command), 2,
                        option.substr(0, option.find(' ')) + " is for metala bench "))
        << command;
  }
  EXPECT_TRUE(refuses(metala("bench train --weights q8"), 2, "a CPU trains in f32"));
  for (const char* what : {"", "decode ", "--compare "}) {
    EXPECT_TRUE(refuses(metala(std::string("bench --width 3 --filter x ") + what), 2,
                        "--filter is for metala bench ops"));
  }
}

TEST(Program, GreedyAndHowToDrawContradictEachOther) {
  for (const char* drawing : {"--temperature 1", "--top-k 3", "--top-p 0.9", "--min-p 0.1"}) {
    EXPECT_TRUE(
        refuses(metala(std::string("generate x y --greedy ") + drawing), 2, "excludes --greedy"));
  }
}

TEST(Program, HelpListsTheCommandsAndSucceeds) {
  const Outcome o = metala("--help");
  EXPECT_EQ(o.status, 0);
  for (const char* command : {"generate", "chat", "train", "data", "plot", "convert", "inspect",
                              "tokenize", "verify", "bench", "doctor"}) {
    EXPECT_NE(o.out.find(command), std::string::npos) << command;
  }
}

TEST(Program, DoctorNamesTheLibrariesAndKernelsInUse) {
  const Outcome o = metala("doctor");
  EXPECT_EQ(o.status, 0) << o.err;
  for (const char* word : {"processor", "threads", "OpenBLAS", "vector kernels"}) {
    EXPECT_NE(o.out.find(word), std::string::npos) << word;
  }
}

TEST(Program, AGpuThatIsNotThereIsRefusedInALineThatNamesTheCpu) {
  const std::string model = METALA_SOURCE_DIR "/tests/golden/tiny";
  const std::string shipped = METALA_SOURCE_DIR "/models/debian-en";
  EXPECT_TRUE(refuses(metala("verify " + model + " --device cuda:63"), 1, "cpu"));
  EXPECT_TRUE(refuses(metala("generate " + shipped + " hello --device cuda:63"), 1, "cpu"));
  EXPECT_TRUE(refuses(metala("verify " + model + " --device cuda:x"), 1, "cuda:NUMBER"));
  EXPECT_EQ(metala("verify " + model + " --device cpu").status, 0);
}

TEST(Program, OutputThatFindsNoRoomIsAFailure) {
  const Folder folder;
  const std::string shipped = METALA_SOURCE_DIR "/models/debian-en";
  for (const std::string& command : {"tokenize " + shipped + " hello", std::string("doctor"),
                                     "generate " + shipped + " hello -n 1 -q"}) {
    const std::string line = METALA_PROGRAM " " + command + " >/dev/full 2>" + (folder / "err");
    EXPECT_EQ(WEXITSTATUS(std::system(line.c_str())), 1) << command;
    EXPECT_NE(slurp(folder / "err").find("No space left"), std::string::npos) << command;
  }
}

TEST(Program, ATerminalDoesNotObeyNamesInErrors) {
  EXPECT_TRUE(refuses(metala("inspect '/a\x1b[2J\nb\xC2\x9B\x7F\u00e9'"), 1, "/a?[2J b??\u00e9"));
  EXPECT_TRUE(refuses(metala("'a\x1b[2J\nb'"), 2, "no command a?[2J b"));
}

TEST(Program, AFolderThatIsNoModelIsRefusedByName) {
  EXPECT_TRUE(refuses(metala("generate /nonexistent hello"), 1, "/nonexistent"));
  EXPECT_TRUE(refuses(metala("verify /nonexistent"), 1, "/nonexistent"));
}

}  // namespace
}  // namespace metala
