#include "metala/text/normalizer.h"

#include <algorithm>
#include <map>
#include <vector>

#include "metala/text/byte_characters.h"
#include "metala/text/json_fields.h"
#include "metala/text/pattern.h"
#include "metala/text/unicode.h"

namespace metala {
namespace {

class Sequence : public Normalizer {
 public:
  Sequence(std::vector<std::unique_ptr<Normalizer>> parts, std::string place)
      : parts_(std::move(parts)), place_(std::move(place)) {}
  void apply(std::string& text, bool continues, std::size_t most) const override {
    for (const auto& part : parts_) {
      part->apply(text, continues, most);
      require(text.size() <= most, "{}: makes a text longer than {} bytes; that is no tokenizer",
              place_, most);
    }
  }
  bool surely_keeps(std::string_view text) const override {
    for (const auto& part : parts_) {
      if (!part->surely_keeps(text)) return false;
    }
    return true;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
  std::string place_;
};

class NormalForm : public Normalizer {
 public:
  explicit NormalForm(unicode::Form form) : form_(form) {}
  void apply(std::string& text, bool, std::size_t) const override {
    if (!surely_keeps(text)) text = unicode::normalised(text, form_);
  }
  bool surely_keeps(std::string_view text) const override {
    return unicode::surely_normalised(text, form_);
  }

 private:
  unicode::Form form_;
};

class Lowercase : public Normalizer {
 public:
  void apply(std::string& text, bool, std::size_t) const override {
    text = unicode::lowercased(text);
  }
  bool surely_keeps(std::string_view text) const override { return text.empty(); }
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(std::string& text, bool, std::size_t) const override {
    std::size_t begin = text.size();  // of the first and past the last that is no white space
    std::size_t end = 0;
    for (std::size_t at = 0; at < text.size();) {
      const auto c = unicode::code_point(text, at);
      if (!unicode::is_space(c.value)) {
        begin = std::min(begin, at);
        end = at + c.bytes;
      }
      at += c.bytes;
    }
    if (right_) text.resize(end);
    if (left_) text.erase(0, begin);
  }
  bool surely_keeps(std::string_view text) const override { return text.empty(); }

 private:
  bool left_, right_;
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::string& text, bool, std::size_t most) const override {
    text = pattern_.replaced(text, content_, most);
  }
  bool surely_keeps(std::string_view) const override { return false; }

 private:
  Pattern pattern_;
  std::string content_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string content) : content_(std::move(content)) {}
  void apply(std::string& text, bool continues, std::size_t) const override {
    if (!text.empty() && !continues) text.insert(0, content_);
  }
  bool surely_keeps(std::string_view text) const override { return text.empty(); }

 private:
  std::string content_;
};

class ByteLevel : public Normalizer {
 public:
  void apply(std::string& text, bool, std::size_t) const override {
    text = byte_characters::spelled(text);
  }
  bool surely_keeps(std::string_view text) const override { return text.empty(); }
};

std::unique_ptr<Normalizer> read_sequence(const JsonFields& fields) {
  constexpr std::size_t most = 64;
  std::vector<std::unique_ptr<Normalizer>> parts;
  std::size_t i = 0;
  require(fields.list("normalizers").size() <= most, "{} has {} entries; at most {} are read",
          fields.place_of("normalizers"), fields.list("normalizers").size(), most);
  for (const auto& one : fields.list("normalizers")) {
    auto part = read_normalizer(one, fmt::format("{}[{}]", fields.place_of("normalizers"), i++));
    if (part != nullptr) parts.push_back(std::move(part));
  }
  return std::make_unique<Sequence>(std::move(parts), fields.place());
}

}  // namespace

std::unique_ptr<Normalizer> read_normalizer(const nlohmann::json& json, const std::string& place) {
  static const std::map<std::string, unicode::Form> forms = {{"NFC", unicode::Form::nfc},
                                                             {"NFD", unicode::Form::nfd},
                                                             {"NFKC", unicode::Form::nfkc},
                                                             {"NFKD", unicode::Form::nfkd}};
  if (json.is_null()) return nullptr;
  const JsonFields fields(json, place);
  const std::string type = fields.type();
  if (type == "Sequence") return read_sequence(fields);
  if (const auto form = forms.find(type); form != forms.end()) {
    return std::make_unique<NormalForm>(form->second);
  }
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "Strip") {
    return std::make_unique<Strip>(fields.flag("strip_left", true),
                                   fields.flag("strip_right", true));
  }
  if (type == "Replace") {
    return std::make_unique<Replace>(Pattern(fields.at("pattern"), fields.place_of("pattern")),
                                     fields.text("content"));
  }
  if (type == "Prepend") return std::make_unique<Prepend>(fields.text("prepend"));
  if (type == "ByteLevel") return std::make_unique<ByteLevel>();
  fields.refuse_type(
      "Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, Replace, Prepend, ByteLevel");
}

}  // namespace metala
