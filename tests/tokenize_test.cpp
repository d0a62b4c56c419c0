// metala tokenize: ids, pieces, counts and the way back; tokenizers that go along with a model.
#include <nlohmann/json.hpp>

#include "program.h"

namespace metala {
namespace {

using namespace program;

const std::string source = METALA_SOURCE_DIR;
const std::string vocabulary = source + "/tests/tokenizers/tiktoken_cl100k";

TEST(Tokenize, PrintsIdsPiecesAndWhetherTheTextComesBack) {
  const Outcome o = metala("tokenize " + vocabulary + " 'the <|im_end|>'");
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.out.find("704  <|im_end|>"), std::string::npos) << o.out;
  EXPECT_NE(o.err.find("14 bytes"), std::string::npos) << o.err;
  EXPECT_NE(o.err.find("comes back exactly"), std::string::npos) << o.err;
}

TEST(Tokenize, NamesOfSpecialTokensAreTextIfWished) {
  const Outcome o = metala("tokenize --as-text --ids " + vocabulary + " '<|im_end|>'");
  EXPECT_EQ(o.out.find("704"), std::string::npos) << o.out;
}

TEST(Tokenize, ArgumentFileAndStandardInputAreTheSame) {
  const Folder folder;
  spill(folder / "text", "Some text, café\n\xFF");
  const Outcome from_file = metala("tokenize --json " + vocabulary + " --file " + folder / "text");
  const Outcome from_input = metala("tokenize --json " + vocabulary + " - <" + folder / "text");
  const auto file = nlohmann::json::parse(from_file.out);
  const auto input = nlohmann::json::parse(from_input.out);
  EXPECT_EQ(file["ids"], input["ids"]);
  EXPECT_EQ(file["tokens"], file["pieces"].size());
  EXPECT_EQ(file["bytes"], 18);
  EXPECT_EQ(file["round_trip"], true);
}

TEST(Tokenize, LinesAreTextsOfTheirOwn) {
  const Folder folder;
  spill(folder / "lines", "Hi\n\nHo");
  EXPECT_EQ(metala("tokenize --lines " + vocabulary + " --file " + folder / "lines").out,
            "72 105\n\n72 111\n");
  EXPECT_EQ(metala("tokenize --lines --json " + vocabulary + " --file " + folder / "lines").out,
            "[72,105]\n[]\n[72,111]\n");
  spill(folder / "greeting", "hi\nhi");
  EXPECT_EQ(metala("tokenize --lines --frame " + source + "/tests/tokenizers/llama3 --file " +
                   folder / "greeting")
                .out,
            "700 71 72\n700 71 72\n");
}

TEST(Tokenize, IdsGiveTheTextBack) {
  const Outcome ids = metala("tokenize --ids " + vocabulary + " 'Some text, café'");
  const Folder folder;
  spill(folder / "ids", ids.out);
  const Outcome text = metala("tokenize --decode " + vocabulary + " --file " + folder / "ids");
  EXPECT_EQ(text.out, "Some text, café\n");
  EXPECT_EQ(metala("tokenize --decode " + vocabulary + " '[72, 105]'").out, "Hi\n");
}

TEST(Tokenize, WhatIsNoTokenizerAndWhatIsNoIdAreRefusedInOneLine) {
  EXPECT_TRUE(refuses(metala("tokenize /nonexistent hello"), 1, "/nonexistent"));
  EXPECT_TRUE(refuses(metala("tokenize " + source + "/docs hello"), 1, "tokenizer.json"));
  EXPECT_TRUE(
      refuses(metala("tokenize --decode " + vocabulary + " 5000"), 1, "there is no id 5000"));
  EXPECT_TRUE(refuses(metala("tokenize --decode " + vocabulary + " 5,x"), 1, "got \"x\""));
}

// A vocabulary of ranks is trained on, saved with every checkpoint, converted along, and generates.
TEST(Tokenize, AModelTrainedOnRanksKeepsThem) {
  const Folder folder;
  const std::string text = slurp(source + "/README.md");
  spill(folder / "book.txt", text.substr(0, 4000));
  const Outcome trained = metala(
      "train " + folder / "book.txt" + " --tokenizer " + vocabulary +
      "/small.tiktoken --steps 2 --width 32 --layers 1 --heads 2 --output " + folder / "run");
  ASSERT_EQ(trained.status, 0) << trained.err;
  const Outcome converted =
      metala("convert " + folder / "run" + " " + folder / "other" + " --dtype f32 --no-check");
  ASSERT_EQ(converted.status, 0) << converted.err;
  EXPECT_EQ(slurp(folder / "other/small.tiktoken"), slurp(vocabulary + "/small.tiktoken"));
  EXPECT_EQ(metala("tokenize --ids " + folder / "run" + " 'linear <|im_end|>'").out,
            metala("tokenize --ids " + vocabulary + " 'linear <|im_end|>'").out);
  EXPECT_EQ(metala("generate " + folder / "other" + " 'The model' -n 3 -q --seed 1").status, 0);
}

}  // namespace
}  // namespace metala
