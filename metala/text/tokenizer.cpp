#include "metala/text/tokenizer.h"

#include <filesystem>

#include "metala/base/error.h"
#include "metala/base/threads.h"
#include "metala/io/file.h"
#include "metala/io/json.h"

namespace metala {
namespace {

namespace fs = std::filesystem;

constexpr const char* byte_class = "MetalaByteTokenizer";
constexpr std::size_t largest_config = std::size_t{64} << 20;
constexpr std::size_t largest_vocabulary = std::size_t{256} << 20;

class ByteTokenizer : public Tokenizer {
 public:
  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids;
    ids.reserve(text.size());
    for (const char c : text) ids.push_back(first_byte + static_cast<unsigned char>(c));
    return ids;
  }

  std::string_view bytes(std::int32_t id) const override {
    if (id < first_byte || id >= size()) return {};
    static const std::string all = [] {
      std::string s;
      for (int b = 0; b < 256; ++b) s.push_back(static_cast<char>(b));
      return s;
    }();
    return std::string_view(all).substr(static_cast<std::size_t>(id - first_byte), 1);
  }

  std::string piece(std::int32_t id) const override {
    if (id == pad()) return "<pad>";
    if (id == bos()) return "<s>";
    if (id == eos()) return "</s>";
    if (id < 0 || id >= size()) return "<none>";
    const int byte = id - first_byte;
    return byte > 0x20 && byte < 0x7f ? std::string(1, static_cast<char>(byte))
                                      : fmt::format("<0x{:02X}>", byte);
  }

  std::int64_t size() const override { return first_byte + 256; }
  std::int32_t bos() const override { return 1; }
  std::int32_t eos() const override { return 2; }
  std::int32_t pad() const override { return 0; }
  std::string description() const override { return "bytes"; }

  void save(const std::string& folder) const override {
    write_file_atomically(folder + "/tokenizer_config.json",
                          fmt::format("{{\n  \"tokenizer_class\": \"{}\"\n}}\n", byte_class));
  }

 private:
  static constexpr std::int32_t first_byte = 3;
};

}  // namespace

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const auto id : ids) text += bytes(id);
  return text;
}

std::vector<std::vector<std::int32_t>> Tokenizer::encode_all(
    std::span<const std::string> texts) const {
  std::vector<std::vector<std::int32_t>> all(texts.size());
  std::vector<std::string> problems(texts.size());  // no exception may leave a parallel loop
  parallel_tasks(static_cast<std::int64_t>(texts.size()), [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    try {
      all[at] = encode(texts[at]);
    } catch (const std::exception& e) {
      problems[at] = e.what();
    }
  });
  for (const auto& problem : problems) require(problem.empty(), "{}", problem);
  return all;
}

std::unique_ptr<Tokenizer> byte_tokenizer() {
  return std::make_unique<ByteTokenizer>();
}

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& folder) {
  const std::string model = folder + "/tokenizer.model";
  if (fs::exists(model)) {
    return sentencepiece_tokenizer(read_file(model, largest_vocabulary), model);
  }
  const std::string config = folder + "/tokenizer_config.json";
  if (fs::exists(config)) {
    const auto json = parse_json(read_file(config, largest_config), config);
    if (json.is_object() && json.value("tokenizer_class", nlohmann::json()) == byte_class) {
      return byte_tokenizer();
    }
  }
  fail(
      "{}: has no tokenizer that metala reads; supported: tokenizer.model (SentencePiece), "
      "tokenizer_config.json with tokenizer_class {} (bytes)",
      folder, byte_class);
}

}  // namespace metala
