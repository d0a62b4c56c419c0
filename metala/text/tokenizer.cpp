#include "metala/text/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <optional>

#include "metala/base/error.h"
#include "metala/base/threads.h"
#include "metala/io/file.h"
#include "metala/text/clean_up.h"
#include "metala/text/tiktoken.h"
#include "metala/text/tokenizer_config.h"
#include "metala/text/tokenizer_json.h"
#include "metala/text/utf8.h"

namespace metala {
namespace {

namespace fs = std::filesystem;

constexpr const char* byte_class = "MetalaByteTokenizer";
constexpr std::size_t largest_config = std::size_t{64} << 20;
constexpr std::size_t largest_vocabulary = std::size_t{256} << 20;

class ByteTokenizer : public Tokenizer {
 public:
  using Tokenizer::encode;
  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions) const override {
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
  bool begun = false;
  for (const auto id : ids) {
    text += begun ? bytes(id) : first_bytes(id);
    begun = begun || begins_text(id);
  }
  return text;
}

std::string Tokenizer::text(std::span<const std::int32_t> ids) const {
  std::string shown = replace_invalid_utf8(decode(ids));
  return cleans_up_spaces() ? clean_up_spaces(std::move(shown)) : shown;
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

namespace {

std::unique_ptr<Tokenizer> open_tiktoken(const std::string& path, const TokenizerConfig& config) {
  const std::string beside = path + ".json";
  std::optional<std::string> description;
  if (fs::exists(beside)) description = read_file(beside, largest_config);
  return tiktoken_tokenizer(read_file(path, largest_vocabulary), description, config, path);
}

std::unique_ptr<Tokenizer> open_file(const std::string& path, const TokenizerConfig& config) {
  if (path.ends_with(".tiktoken")) return open_tiktoken(path, config);
  const std::string content = read_file(path, largest_vocabulary);
  if (path.ends_with(".json")) return tokenizer_json(content, config, path);
  return sentencepiece_tokenizer(content, path, config);
}

// The one file of the folder that ends in .tiktoken; empty: none.
std::string tiktoken_file(const std::string& folder) {
  std::string found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string path = entry.path().string();
    if (!path.ends_with(".tiktoken")) continue;
    require(found.empty(), "{}: {} and {} are both there; name one of them", folder,
            fs::path(std::min(found, path)).filename().string(),
            fs::path(std::max(found, path)).filename().string());
    found = path;
  }
  return found;
}

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path) {
  auto found = find_tokenizer(path);
  require(
      found != nullptr,
      "{}: has no tokenizer that metala reads; there are tokenizer.json, tokenizer.model "
      "(SentencePiece), NAME.tiktoken, and tokenizer_config.json with tokenizer_class {} (bytes)",
      path, byte_class);
  return found;
}

std::unique_ptr<Tokenizer> find_tokenizer(const std::string& path) {
  if (fs::is_regular_file(path)) {
    const fs::path folder = fs::path(path).parent_path();
    return open_file(path, read_tokenizer_config(folder.empty() ? "." : folder.string()));
  }
  const TokenizerConfig config = read_tokenizer_config(path);
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    const std::string file = path + "/" + name;
    if (fs::exists(file)) return open_file(file, config);
  }
  if (fs::is_directory(path)) {
    const std::string ranks = tiktoken_file(path);
    if (!ranks.empty()) return open_file(ranks, config);
  }
  if (config.tokenizer_class == byte_class) return byte_tokenizer();
  return nullptr;
}

}  // namespace metala
