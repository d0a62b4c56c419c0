// Preparing data through the program, as a user would.
#include <nlohmann/json.hpp>

#include "program.h"

namespace metala {
namespace {

using namespace program;

std::string corpus(int documents) {
  std::string text;
  for (int i = 0; i < documents; ++i) {
    text += "{\"text\": \"document " + std::to_string(i) + " of a corpus\"}\n";
  }
  return text;
}

TEST(Data, TextIsPreparedShownMeasuredSplitAndMerged) {
  const Folder folder;
  spill(folder / "a.jsonl", corpus(10));
  const std::string all = folder / "all";
  const Outcome prepared = metala("data prepare --json -o " + all + " " + (folder / "a.jsonl"));
  ASSERT_EQ(prepared.status, 0) << prepared.err;
  const auto report = nlohmann::json::parse(prepared.out);
  EXPECT_EQ(report["documents"], 10);
  EXPECT_EQ(report["tokens"], 10 * 23);  // a byte each, and an end
  EXPECT_EQ(metala("data show " + all + " --document 3").out, "document 3 of a corpus\n");
  EXPECT_TRUE(metala("data show " + all + " --ids --tokens 2").out == "103 114\n");

  ASSERT_EQ(metala("data split " + all + " --split 6,3,1").status, 0);
  ASSERT_EQ(metala("data merge " + all + "_train " + all + "_valid " + all + "_test -o " +
                   (folder / "again"))
                .status,
            0);
  EXPECT_EQ(slurp(folder / "again.bin"), slurp(all + ".bin"));
  EXPECT_EQ(slurp(folder / "again.idx"), slurp(all + ".idx"));
  const auto stats = nlohmann::json::parse(metala("data stats --json " + all + "_valid").out);
  EXPECT_EQ(stats["documents"], 3);
  EXPECT_EQ(stats["documents ending in the end token"], 3);
  EXPECT_NE(metala("data stats " + all).out.find("median 23"), std::string::npos);
}

TEST(Data, IdsAndLabelsArePreparedShownSplitAndLearned) {
  const Folder folder;
  std::string lines;
  for (int d = 0; d < 40; ++d) {
    lines += R"({"ids": [10, 11, 12, 13], "labels": [-100, 12, 13, -100]})";
    lines += "\n";
  }
  spill(folder / "a.jsonl", lines);
  const std::string all = folder / "all";
  ASSERT_EQ(metala("data prepare -o " + all + " " + (folder / "a.jsonl")).status, 0);
  EXPECT_EQ(metala("data show --ids " + all).out, "10 11 12 13 2\n");
  EXPECT_EQ(metala("data show --labels " + all).out, "-100 -100 12 13 -100\n");
  EXPECT_EQ(nlohmann::json::parse(metala("data stats --json " + all).out)["labelled tokens"], 80);
  ASSERT_EQ(metala("data split " + all + " --split 1,1").status, 0);
  EXPECT_EQ(metala("data show --labels " + all + "_valid").out, "-100 -100 12 13 -100\n");
  const Outcome trained = metala("train " + all +
                                 " --preset nano --sequence-length 8 --steps 2"
                                 " --validation-share 0.2 --output " +
                                 (folder / "run"));
  EXPECT_EQ(trained.status, 0) << trained.err;
  EXPECT_NE(trained.err.find("training on 160 tokens by their labels"), std::string::npos)
      << trained.err;

  spill(folder / "text.jsonl", corpus(3));
  ASSERT_EQ(metala("data prepare -o " + (folder / "text") + " " + (folder / "text.jsonl")).status,
            0);
  EXPECT_TRUE(refuses(metala("data show --labels " + (folder / "text")), 1, "without labels"));
  EXPECT_TRUE(
      refuses(metala("data merge -o " + (folder / "m") + " " + all + " " + (folder / "text")), 1,
              "blend them in training"));
  EXPECT_TRUE(refuses(metala("data prepare --tokenizer sentencepiece -o " + (folder / "s") + " " +
                             (folder / "a.jsonl")),
                      1, "no text"));
}

TEST(Data, ATokenizerWithoutAnEndTokenMakesAModelWithoutOne) {
  const Folder folder;
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string ranks;  // each byte, in base64
  for (std::size_t byte = 0; byte < 256; ++byte) {
    ranks += {digits[byte >> 2], digits[(byte & 3) << 4], '=', '=', ' '};
    ranks += std::to_string(byte) + "\n";
  }
  spill(folder / "bytes.tiktoken", ranks);
  spill(folder / "a.jsonl", corpus(40));
  const std::string all = folder / "all", run = folder / "run";
  ASSERT_EQ(metala("data prepare --no-end --tokenizer " + (folder / "bytes.tiktoken") + " -o " +
                   all + " " + (folder / "a.jsonl"))
                .status,
            0);
  const std::string train = "train " + all +
                            " --width 32 --layers 1 --heads 2 --glu-width 32 --sequence-length 8"
                            " --steps 2 --sample-every 1 --output " +
                            run;
  ASSERT_EQ(metala(train).status, 0);
  const Outcome o = metala("generate " + run + " hello -n 30");
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_EQ(metala(train + " --resume").status, 0);
  const auto config = nlohmann::json::parse(slurp(run + "/step-00000002/config.json"));
  EXPECT_EQ(config["eos_token_id"].dump(), "[]");
}

TEST(Data, StandardInputIsReadAndFoldersAreWalked) {
  const Folder folder;
  spill(folder / "a.jsonl", corpus(5));
  ASSERT_EQ(metala("data prepare - -o " + (folder / "in") + " < " + (folder / "a.jsonl")).status,
            0);
  ASSERT_EQ(metala("data prepare -o " + (folder / "named") + " " + (folder / "a.jsonl")).status, 0);
  EXPECT_EQ(slurp(folder / "in.bin"), slurp(folder / "named.bin"));
  std::filesystem::create_directories(folder / "texts/sub");
  spill(folder / "texts/b.txt", "two");
  spill(folder / "texts/sub/a.txt", "three");
  spill(folder / "texts/a.txt", "one");
  ASSERT_EQ(metala("data prepare -o " + (folder / "t") + " " + (folder / "texts")).status, 0);
  EXPECT_EQ(metala("data show -n 3 " + (folder / "t")).out, "one\ntwo\nthree\n");
}

TEST(Data, AKilledPreparationGoesOnAndEndsWithTheSameBytes) {
  const Folder folder;
  spill(folder / "a.jsonl", corpus(120000));
  const std::string in =
      " --tokenizer " METALA_SOURCE_DIR "/models/debian-en/tokenizer.model " + (folder / "a.jsonl");
  ASSERT_EQ(metala("data prepare -o " + (folder / "whole") + in).status, 0);
  const std::string part = folder / "part";
  bool stopped = false;
  for (const char* after : {"0.2", "0.4", "0.8", "20"}) {
    metala("data prepare --resume -o " + part + in, std::string("timeout -s TERM ") + after);
    if (std::filesystem::exists(part + ".idx")) break;  // it was done before the signal came
    stopped = true;
  }
  if (!std::filesystem::exists(part + ".idx")) {
    ASSERT_EQ(metala("data prepare --resume -o " + part + in).status, 0);
  }
  EXPECT_TRUE(stopped);
  EXPECT_TRUE(slurp(part + ".bin") == slurp(folder / "whole.bin"));
  EXPECT_TRUE(slurp(part + ".idx") == slurp(folder / "whole.idx"));
}

TEST(Data, BadInputIsRefusedInOneLine) {
  const Folder folder;
  spill(folder / "a.jsonl", corpus(3) + "{broken\n");
  const std::string in = " " + (folder / "a.jsonl");
  EXPECT_TRUE(refuses(metala("data prepare" + in), 2, "--output PREFIX"));
  EXPECT_TRUE(refuses(metala("data prepare -o " + (folder / "x")), 2, "no text"));
  EXPECT_TRUE(refuses(metala("data prepare -o " + (folder / "x") + in), 1, "a.jsonl:4: not valid"));
  EXPECT_TRUE(refuses(metala("data prepare -o " + (folder / "x") + in), 1, "--resume"));
  const Outcome skipped =
      metala("data prepare --malformed skip --resume -o " + (folder / "x") + in);
  EXPECT_EQ(skipped.status, 0) << skipped.err;
  EXPECT_NE(skipped.err.find("left out: 1 not JSON"), std::string::npos) << skipped.err;
  EXPECT_TRUE(refuses(metala("data show " + (folder / "none")), 1, "metala data prepare"));
  EXPECT_TRUE(refuses(metala("data show --document 9 " + (folder / "x")), 1, "has 3 documents"));
  EXPECT_TRUE(refuses(metala("data shwo x"), 2,
                      "metala data: no command shwo; did you mean show? See metala data --help."));
  EXPECT_TRUE(refuses(metala("data prepare --resum x"), 2,
                      "metala data prepare: no option --resum; did you mean --resume?"));
  // A limit on the size of files stands in for a full disk.
  spill(folder / "b.jsonl", corpus(1000));
  EXPECT_TRUE(refuses(metala("data prepare -o " + (folder / "y") + " " + (folder / "b.jsonl"),
                             "trap '' XFSZ; ulimit -f 8;"),
                      1, "write failed"));
  EXPECT_FALSE(std::filesystem::exists(folder / "y.idx"));
}

}  // namespace
}  // namespace metala
