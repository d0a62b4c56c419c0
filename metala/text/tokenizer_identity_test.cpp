// Ids and texts are those of the original libraries: tests/tokenizers holds vocabularies that
// tiktoken, tokenizers and sentencepiece trained and what they made of strings.json
// (tools/tokenizer_goldens.py).
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "metala/generate/text_stream.h"
#include "metala/harness/temporary_folder.h"
#include "metala/io/json.h"
#include "metala/text/tokenizer.h"
#include "metala/text/utf8.h"

namespace metala {
namespace {

using harness::slurp;
using Ids = std::vector<std::int32_t>;
namespace fs = std::filesystem;

const std::string folder = METALA_SOURCE_DIR "/tests/tokenizers";

const std::vector<std::string>& strings() {
  static const auto all =
      parse_json(slurp(folder + "/strings.json"), "strings.json").get<std::vector<std::string>>();
  return all;
}

std::vector<std::string> byte_strings() {
  std::vector<std::string> all;
  for (const auto& hex : parse_json(slurp(folder + "/bytes.json"), "bytes.json")) {
    const auto digits = hex.get<std::string>();
    std::string bytes;
    for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
      bytes.push_back(static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16)));
    }
    all.push_back(std::move(bytes));
  }
  return all;
}

// u16 count, u16 ids, again and again.
std::vector<Ids> packed_ids(const std::string& path) {
  const std::string bytes = slurp(path);
  std::size_t at = 0;
  const auto next = [&] {
    const auto low = static_cast<unsigned char>(bytes.at(at++));
    return static_cast<std::int32_t>(low | static_cast<unsigned char>(bytes.at(at++)) << 8);
  };
  std::vector<Ids> all;
  while (at < bytes.size()) {
    Ids ids(static_cast<std::size_t>(next()));
    for (auto& id : ids) id = next();
    all.push_back(std::move(ids));
  }
  return all;
}

class Identity : public testing::TestWithParam<std::string> {
 protected:
  std::string path() const { return folder + "/" + GetParam(); }
  // SentencePiece never takes text for a control symbol; metala does when asked.
  bool original_reads_names() const { return !GetParam().starts_with("sentencepiece"); }

  const std::unique_ptr<Tokenizer> tokenizer_ = open_tokenizer(path());
  const std::vector<Ids> ids_ = packed_ids(path() + "/ids.bin");
  const nlohmann::json expected_ = parse_json(slurp(path() + "/expected.json"), "expected.json");
};

TEST_P(Identity, EveryStringHasTheOriginalsIds) {
  ASSERT_EQ(ids_.size(), strings().size());
  ASSERT_GE(ids_.size(), 2000u);
  for (std::size_t i = 0; i < ids_.size(); ++i) {
    const auto got = tokenizer_->encode(strings()[i], {.special = original_reads_names()});
    ASSERT_EQ(got, ids_[i]) << i << ": " << strings()[i];
  }
}

TEST_P(Identity, NamesOfSpecialTokensAreTextUnlessAskedFor) {
  const auto& as_text = expected_.at("as_text");
  for (std::size_t i = 0; i < ids_.size(); ++i) {
    const auto other = as_text.find(std::to_string(i));
    const Ids want = other == as_text.end() ? ids_[i] : other->get<Ids>();
    ASSERT_EQ(tokenizer_->encode(strings()[i]), want) << i << ": " << strings()[i];
  }
}

TEST_P(Identity, IdsDecodeToTheOriginalsText) {
  const auto& decoded = expected_.at("decoded");
  for (std::size_t i = 0; i < ids_.size(); ++i) {
    const auto other = decoded.find(std::to_string(i));
    const auto want = other == decoded.end() ? strings()[i] : other->get<std::string>();
    ASSERT_EQ(tokenizer_->text(ids_[i]), want) << i;
  }
}

TEST_P(Identity, RandomIdsDecodeToTheOriginalsText) {
  ASSERT_GE(expected_.at("sequences").size(), 100u);
  for (const auto& one : expected_.at("sequences")) {
    ASSERT_EQ(tokenizer_->text(one.at(0).get<Ids>()), one.at(1).get<std::string>())
        << one.at(0).dump();
  }
}

TEST_P(Identity, BytesThatAreNoTextHaveTheOriginalsIds) {
  if (!expected_.contains("bytes")) return;
  const auto all = byte_strings();
  for (std::size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(tokenizer_->encode(all[i]), expected_["bytes"].at(i).get<Ids>()) << i;
    ASSERT_EQ(tokenizer_->decode(tokenizer_->encode(all[i])), all[i]) << i;
  }
}

// Streamed, U+FFFD may stand for a part or for each byte of it: what is compared is valid.
TEST_P(Identity, StreamedTextIsTheTextOfTheWhole) {
  for (std::size_t i = 0; i < ids_.size(); i += 3) {
    const std::string want = tokenizer_->text(ids_[i]);
    if (want.find("\xEF\xBF\xBD") != std::string::npos) continue;
    TextStream stream(*tokenizer_, {}, true);
    std::string got;
    for (const auto id : ids_[i]) {
      const std::string piece = stream.push(id);
      ASSERT_EQ(valid_utf8_prefix(piece), piece.size());
      got += piece;
    }
    ASSERT_EQ(got + stream.flush(), want) << i;
  }
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_directory()) all.push_back(entry.path().filename().string());
  }
  std::sort(all.begin(), all.end());
  return all;
}

INSTANTIATE_TEST_SUITE_P(, Identity, testing::ValuesIn(names()),
                         [](const auto& vocabulary) { return vocabulary.param; });

}  // namespace
}  // namespace metala
