#include "metala/text/tokenizer_json.h"

#include <optional>
#include <set>
#include <unordered_map>

#include "metala/io/json.h"
#include "metala/text/bpe_model.h"
#include "metala/text/clean_up.h"
#include "metala/text/file_tokenizer.h"
#include "metala/text/json_fields.h"
#include "metala/text/normalizer.h"
#include "metala/text/pre_tokenizer.h"
#include "metala/text/token_decoder.h"
#include "metala/text/utf8.h"

namespace metala {
namespace {

using nlohmann::json;

// How much longer than the text a normalizer may make it.
std::size_t most_normalized(std::size_t bytes) {
  return 16 * bytes + (std::size_t{1} << 20);
}

// The vocabulary and the merges are most of the file: they go to flat lists as they are read, and
// what is left is a small tree.
class TablesReader {
 public:
  explicit TablesReader(std::string path) : path_(std::move(path)) {}

  bool keep(int depth, json::parse_event_t event, const json& value) {
    using Event = json::parse_event_t;
    if (event == Event::key) {
      const auto level = static_cast<std::size_t>(depth);
      keys_.resize(level);
      keys_.back() = value.get<std::string>();
      return !(depth == 3 && in("vocab"));
    }
    if (keys_.size() < 2 || keys_[0] != "model") return true;
    if (keys_[1] == "vocab" && depth == 3 && keys_.size() == 3) {
      require(value.is_number_unsigned(), "{}: model.vocab: \"{}\" has no id of 0 or more", path_,
              printable(keys_[2]));
      tables.vocabulary.emplace_back(std::move(keys_[2]), value.get<std::uint64_t>());
      keys_.pop_back();
    } else if (keys_[1] == "merges" && depth == 3 && event == Event::value) {
      require(keys_.size() == 2, "{}: model.merges is not a list", path_);
      add_legacy(value);
      return false;
    } else if (keys_[1] == "merges" && depth == 3 && event == Event::array_end) {
      add_pair(value);
      return false;
    }
    return true;
  }

  BpeTables tables;

 private:
  bool in(const char* key) const { return keys_[0] == "model" && keys_[1] == key; }

  std::string merge() const { return fmt::format("{}: model.merges[{}]", path_, seen_); }

  void add_pair(const json& pair) {
    require(pair.size() == 2 && pair[0].is_string() && pair[1].is_string(),
            "{} is not a pair of texts", merge());
    tables.merges.emplace_back(pair[0].get<std::string>(), pair[1].get<std::string>());
    ++seen_;
  }

  // "left right"
  void add_legacy(const json& line) {
    require(line.is_string(), "{} is neither a pair nor a text", merge());
    const auto& text = line.get_ref<const std::string&>();
    const auto space = text.find(' ');
    require(space != std::string::npos && text.find(' ', space + 1) == std::string::npos,
            "{} is \"{}\"; wanted two tokens with one space between them", merge(),
            printable(text));
    ++seen_;
    if (text.starts_with("#version")) return;
    tables.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }

  std::string path_;
  std::vector<std::string> keys_;  // the innermost last
  std::size_t seen_ = 0;
};

AddedToken read_added(const json& one, const std::string& place) {
  const JsonFields fields(one, place);
  AddedToken token;
  token.content = fields.text("content");
  token.id = fields.number("id");
  token.single_word = fields.flag("single_word", false);
  token.lstrip = fields.flag("lstrip", false);
  token.rstrip = fields.flag("rstrip", false);
  token.normalized = fields.flag("normalized", true);
  token.special = fields.flag("special", false);
  return token;
}

class JsonTokenizer : public FileTokenizer {
 public:
  JsonTokenizer(const json& file, const BpeTables& tables, const TokenizerConfig& config,
                const std::string& path)
      : FileTokenizer(config),
        path_(path),
        normalizer_(read_normalizer(component(file, "normalizer"), path + ": normalizer")),
        pre_tokenizers_(
            read_pre_tokenizers(component(file, "pre_tokenizer"), path + ": pre_tokenizer")),
        model_(tables, component(file, "model"), pre_tokenizers_.byte_level, path + ": model"),
        decoder_(component(file, "decoder"), path + ": decoder") {
    for (const auto& token : model_.tokens()) names_.push_back(token);
    read_added_tokens(file, config);
    find_added_tokens();
    make_bytes();
    take_roles(config.named, config.path, [this](const std::string& name) { return id_of(name); });
    if (config.is_llama()) {
      take_frame(config, true);
    } else {
      read_post_processor(component(file, "post_processor"), path + ": post_processor");
    }
  }

  using Tokenizer::encode;
  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options) const override {
    Encoding encoding{{}, options, PieceCaches::Loan(caches_)};
    encoding.ids.reserve(text.size() / 4);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t valid = valid_utf8_prefix(text.substr(at));
      if (valid > 0) encode_valid(text.substr(at, valid), at == 0, encoding);
      at += valid;
      if (at < text.size())
        model_.encode_byte(static_cast<unsigned char>(text[at++]), encoding.ids);
    }
    return std::move(encoding.ids);
  }

  std::string_view bytes(std::int32_t id) const override {
    return id < 0 || id >= size() ? std::string_view() : bytes_[static_cast<std::size_t>(id)];
  }

  std::string_view first_bytes(std::int32_t id) const override {
    const auto found = first_bytes_.find(id);
    return found == first_bytes_.end() ? bytes(id) : found->second;
  }

  std::string piece(std::int32_t id) const override {
    return id < 0 || id >= size() ? "<none>" : names_[static_cast<std::size_t>(id)];
  }

  std::string text(std::span<const std::int32_t> ids) const override {
    std::vector<std::string> tokens;
    for (const auto id : ids) {
      if (id >= 0 && id < size() && !hidden_.contains(id)) tokens.push_back(piece(id));
    }
    std::string shown = decoder_.text(std::move(tokens));
    return cleans_up_spaces() ? clean_up_spaces(std::move(shown)) : shown;
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(names_.size()); }
  std::string description() const override {
    return fmt::format("tokenizer.json, BPE, {} tokens, {} merges, {} added",
                       model_.tokens().size(), model_.merge_count(), added_.size());
  }

 private:
  struct Encoding {
    std::vector<std::int32_t> ids;
    EncodeOptions options;
    PieceCaches::Loan cache;
  };

  static const json& component(const json& file, const char* key) {
    static const json none;
    const auto found = file.find(key);
    return found == file.end() ? none : *found;
  }

  std::int32_t id_of(const std::string& token) const {
    const auto found = added_ids_.find(token);
    return found == added_ids_.end() ? model_.id(token) : found->second;
  }

  void read_added_tokens(const json& file, const TokenizerConfig& config) {
    const json& list = component(file, "added_tokens");
    require(list.is_array() || list.is_null(), "{}: added_tokens is not a list", path_);
    std::size_t i = 0;
    for (const auto& one : list) {
      const std::string place = fmt::format("{}: added_tokens[{}]", path_, i++);
      add(read_added(one, place), place);
    }
    for (const auto& token : config.added) {
      if (!added_ids_.contains(token.content)) {
        add(token, fmt::format("{}: added_tokens_decoder {}", config.path, token.id));
      }
    }
    for (const auto& [role, name] : config.named) {
      const std::int32_t id = id_of(name);
      if (id < 0 || added_ids_.contains(name)) continue;
      AddedToken token;
      token.content = name;
      token.id = id;
      token.special = true;
      add(token, fmt::format("{}: {}", config.path, role));
    }
  }

  void add(const AddedToken& token, const std::string& place) {
    const std::int32_t known = id_of(token.content);
    require(!token.content.empty(), "{} has an empty content", place);
    require(!added_ids_.contains(token.content), "{}: \"{}\" is added twice", place,
            printable(token.content));
    require(known < 0 || known == token.id, "{}: \"{}\" has id {}, in the vocabulary {}", place,
            printable(token.content), token.id, known);
    require(known >= 0 || token.id >= size(), "{}: \"{}\" has id {}, which is another's", place,
            printable(token.content), token.id);
    require(known >= 0 || token.id == size(), "{}: \"{}\" has id {}; wanted {}, the next", place,
            printable(token.content), token.id, size());
    if (known < 0) names_.push_back(token.content);
    added_ids_.emplace(token.content, token.id);
    added_.push_back(token);
  }

  // Special ones are looked for first, where two have the same name once normalised. The name that
  // is looked for is also what decoding shows; if that is a special token's own, it shows nothing.
  void find_added_tokens() {
    const std::string source = path_ + ": added_tokens";
    std::set<std::string> special_names;
    for (const auto& token : added_) {
      if (token.special) special_names.insert(token.content);
    }
    for (const bool special : {true, false}) {
      for (const auto& token : added_) {
        if (token.special != special) continue;
        std::string name = token.content;
        if (token.normalized) normalize(name, false);
        (token.normalized ? normalized_ : raw_).add(name, token, source);
        if (special_names.contains(name)) hidden_.insert(token.id);
        names_[static_cast<std::size_t>(token.id)] = std::move(name);
      }
    }
  }

  void make_bytes() {
    for (std::size_t i = 0; i < names_.size(); ++i) {
      const auto id = static_cast<std::int32_t>(i);
      const bool shown = !hidden_.contains(id);
      bytes_.push_back(shown ? decoder_.bytes(names_[i], false) : "");
      if (!shown) continue;
      std::string first = decoder_.bytes(names_[i], true);
      if (first != bytes_.back()) first_bytes_.emplace(id, std::move(first));
    }
  }

  void read_post_processor(const json& one, const std::string& place) {
    if (one.is_null()) return;
    const JsonFields fields(one, place);
    const std::string type = fields.type();
    if (type == "Sequence") {
      std::size_t i = 0;
      for (const auto& part : fields.list("processors")) {
        read_post_processor(part, fmt::format("{}[{}]", fields.place_of("processors"), i++));
      }
    } else if (type == "TemplateProcessing") {
      read_template(fields);
    } else if (type == "RobertaProcessing" || type == "BertProcessing") {
      frame_.before.insert(frame_.before.begin(), paired_id(fields, "cls"));
      frame_.after.push_back(paired_id(fields, "sep"));
    } else if (type != "ByteLevel") {  // that one changes offsets only
      fields.refuse_type(
          "Sequence, TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing");
    }
  }

  std::int32_t checked_id(const json& id, const std::string& place) const {
    const bool known =
        id.is_number_unsigned() && id.get<std::uint64_t>() < static_cast<std::uint64_t>(size());
    require(known, "{} is no id of a token", place);
    return id.get<std::int32_t>();
  }

  // ["[CLS]", 101]
  std::int32_t paired_id(const JsonFields& fields, const char* key) const {
    const json& pair = fields.list(key);
    require(pair.size() == 2, "{} is not a token and its id", fields.place_of(key));
    return checked_id(pair[1], fields.place_of(key));
  }

  void read_template(const JsonFields& fields) {
    std::vector<std::int32_t> before, after;
    bool passed = false;  // the text's own place
    const JsonFields special(fields.at("special_tokens"), fields.place_of("special_tokens"));
    for (const auto& one : fields.list("single")) {
      const JsonFields piece(one, fields.place_of("single"));
      if (piece.find("Sequence") != nullptr) {
        require(!passed, "{} has its text twice", piece.place());
        passed = true;
        continue;
      }
      const JsonFields named(piece.at("SpecialToken"), piece.place_of("SpecialToken"));
      const std::string name = named.text("id");
      const JsonFields token(special.at(name.c_str()), special.place_of(printable(name)));
      for (const auto& id : token.list("ids")) {
        (passed ? after : before).push_back(checked_id(id, token.place_of("ids")));
      }
    }
    require(passed, "{} has no place for the text", fields.place_of("single"));
    frame_.before.insert(frame_.before.begin(), before.begin(), before.end());
    frame_.after.insert(frame_.after.end(), after.begin(), after.end());
  }

  void normalize(std::string& text, bool continues) const {
    if (normalizer_ != nullptr) normalizer_->apply(text, continues, most_normalized(text.size()));
  }

  void encode_valid(std::string_view text, bool begins, Encoding& encoding) const {
    const auto put = [&](const AddedToken& token) { encoding.ids.push_back(token.id); };
    raw_.split(
        text, encoding.options.special,
        [&](std::string_view part, std::size_t at) {
          const Place place = !begins || at > 0            ? Place::later
                              : encoding.options.continues ? Place::continued
                                                           : Place::start;
          std::string buffer;
          if (normalizer_ != nullptr && !normalizer_->surely_keeps(part)) {
            buffer = part;
            normalize(buffer, place == Place::continued);
            part = buffer;
          }
          normalized_.split(
              part, encoding.options.special,
              [&](std::string_view piece, std::size_t piece_at) {
                encode_text(piece, piece_at > 0 ? Place::later : place, encoding);
              },
              put);
        },
        put);
  }

  void encode_text(std::string_view text, Place place, Encoding& encoding) const {
    pre_tokenizers_.split(text, place, [&](std::string_view piece, Place) {
      model_.encode(piece, *encoding.cache, encoding.ids);
    });
  }

  std::string path_;
  std::unique_ptr<Normalizer> normalizer_;
  PreTokenizers pre_tokenizers_;
  BpeModel model_;
  TokenDecoder decoder_;
  std::vector<AddedToken> added_;
  std::unordered_map<std::string, std::int32_t> added_ids_;
  std::set<std::int32_t> hidden_;           // special: no part of the text
  AddedTokenFinder raw_, normalized_;       // looked for before and after normalising
  std::vector<std::string> names_, bytes_;  // by id
  std::unordered_map<std::int32_t, std::string> first_bytes_;  // where not as bytes_
  mutable PieceCaches caches_;
};

}  // namespace

std::unique_ptr<Tokenizer> tokenizer_json(const std::string& content, const TokenizerConfig& config,
                                          const std::string& path) {
  TablesReader reader(path);
  const json file = parse_json(content, path, [&](int depth, json::parse_event_t event, json& v) {
    return reader.keep(depth, event, v);
  });
  const JsonFields fields(file, path);
  require(fields.text("version", "1.0") == "1.0", "{}: version is \"{}\"; metala reads 1.0", path,
          printable(fields.text("version")));
  const JsonFields model(fields.at("model"), path + ": model");
  const std::string type = model.text("type", "BPE");
  require(type == "BPE",
          "{}: model is of type \"{}\"; metala reads BPE (and SentencePiece's "
          "unigram models as tokenizer.model)",
          path, printable(type));
  auto tokenizer = std::make_unique<JsonTokenizer>(file, reader.tables, config, path);
  tokenizer->keep_file("tokenizer.json", content);
  return tokenizer;
}

}  // namespace metala
