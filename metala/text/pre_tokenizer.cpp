#include "metala/text/pre_tokenizer.h"

#include <map>
#include <optional>

#include "metala/text/json_fields.h"
#include "metala/text/pattern.h"
#include "metala/text/split_patterns.h"
#include "metala/text/unicode.h"

namespace metala {
namespace {

// A part of a text: a match of what was looked for, or what lies between matches.
struct Span {
  std::size_t begin, end;
  bool match;
};

enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

Behavior read_behavior(const JsonFields& fields, const char* otherwise) {
  static const std::map<std::string, Behavior> all = {
      {"Removed", Behavior::removed},
      {"Isolated", Behavior::isolated},
      {"MergedWithPrevious", Behavior::merged_with_previous},
      {"MergedWithNext", Behavior::merged_with_next},
      {"Contiguous", Behavior::contiguous}};
  const std::string given = fields.text("behavior", otherwise);
  const auto found = all.find(given);
  require(found != all.end(), "{} is \"{}\", which is no behavior of Split",
          fields.place_of("behavior"), printable(given));
  return found->second;
}

// Appends a match and the gap before it.
void add_match(std::vector<Span>& spans, std::size_t begin, std::size_t end) {
  const std::size_t done = spans.empty() ? 0 : spans.back().end;
  if (done < begin) spans.push_back({done, begin, false});
  spans.push_back({begin, end, true});
}

void add_last_gap(std::vector<Span>& spans, std::size_t size) {
  const std::size_t done = spans.empty() ? 0 : spans.back().end;
  if (done < size) spans.push_back({done, size, false});
}

// Joins spans as the behavior says; what is left is what is handed on.
std::vector<Span> joined(const std::vector<Span>& spans, Behavior behavior) {
  std::vector<Span> out;
  bool last = false;
  const auto join_or_add = [&](const Span& s, bool join) {
    if (join && !out.empty()) {
      out.back().end = s.end;
    } else {
      out.push_back(s);
    }
    last = s.match;
  };
  switch (behavior) {
    case Behavior::isolated:
      return spans;
    case Behavior::removed:
      for (const auto& s : spans) {
        if (!s.match) out.push_back(s);
      }
      return out;
    case Behavior::contiguous:
      for (const auto& s : spans) join_or_add(s, s.match == last);
      return out;
    case Behavior::merged_with_previous:
      for (const auto& s : spans) join_or_add(s, s.match && !last);
      return out;
    case Behavior::merged_with_next:
      for (std::size_t i = spans.size(); i-- > 0;) {
        if (spans[i].match && !last && !out.empty()) {
          out.back().begin = spans[i].begin;
        } else {
          out.push_back(spans[i]);
        }
        last = spans[i].match;
      }
      return {out.rbegin(), out.rend()};
  }
  return out;
}

void hand_on(std::string_view text, Place place, const std::vector<Span>& spans,
             PreTokenizer::Sink sink) {
  for (const auto& s : spans) {
    if (s.begin == s.end) continue;
    sink(text.substr(s.begin, s.end - s.begin), s.begin == 0 ? place : Place::later);
  }
}

void hand_on(std::string_view text, Place place, Splitter splitter, PreTokenizer::Sink sink) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = splitter(text, at);
    sink(text.substr(at, end - at), at == 0 ? place : Place::later);
    at = end;
  }
}

class Split : public PreTokenizer {
 public:
  explicit Split(const JsonFields& fields)
      : pattern_(fields.at("pattern"), fields.place_of("pattern")),
        behavior_(read_behavior(fields, "")),
        invert_(fields.flag("invert", false)) {
    // Between the matches of a well-known pattern there is nothing, so removing them inverted, as
    // some files do, is isolating them.
    const bool keeps_matches =
        invert_ ? behavior_ == Behavior::removed || behavior_ == Behavior::isolated
                : behavior_ == Behavior::isolated;
    if (keeps_matches) splitter_ = split_patterns::find(pattern_.regex_source());
  }

  void split(std::string_view text, Place place, Sink sink) const override {
    if (splitter_ != nullptr) return hand_on(text, place, splitter_, sink);
    std::vector<Span> spans;
    pattern_.each(text, [&](std::size_t begin, std::size_t end) { add_match(spans, begin, end); });
    add_last_gap(spans, text.size());
    if (invert_) {
      for (auto& s : spans) s.match = !s.match;
    }
    hand_on(text, place, joined(spans, behavior_), sink);
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
  Splitter splitter_ = nullptr;
};

// Every character for which `Matches` holds is a match.
template <class Matches>
class SplitCharacters : public PreTokenizer {
 public:
  SplitCharacters(Behavior behavior, Matches matches) : behavior_(behavior), matches_(matches) {}

  void split(std::string_view text, Place place, Sink sink) const override {
    std::vector<Span> spans;
    for (std::size_t at = 0; at < text.size();) {
      const auto c = unicode::code_point(text, at);
      if (matches_(c.value)) add_match(spans, at, at + c.bytes);
      at += c.bytes;
    }
    add_last_gap(spans, text.size());
    hand_on(text, place, joined(spans, behavior_), sink);
  }

 private:
  Behavior behavior_;
  Matches matches_;
};

template <class Matches>
std::unique_ptr<PreTokenizer> split_characters(Behavior behavior, Matches matches) {
  return std::make_unique<SplitCharacters<Matches>>(behavior, matches);
}

// Puts `space` in front of a piece that does not begin with it; gives `text` back if nothing is to
// be done.
std::string_view with_space(std::string_view text, std::string_view space, bool wanted,
                            std::string& buffer) {
  if (!wanted || text.starts_with(space)) return text;
  buffer = space;
  buffer += text;
  return buffer;
}

class ByteLevel : public PreTokenizer {
 public:
  explicit ByteLevel(const JsonFields& fields)
      : add_prefix_space_(fields.flag("add_prefix_space", true)),
        splitter_(fields.flag("use_regex", true) ? split_patterns::find(split_patterns::gpt2)
                                                 : nullptr) {}

  void split(std::string_view text, Place place, Sink sink) const override {
    std::string buffer;
    text = with_space(text, " ", add_prefix_space_ && place != Place::continued, buffer);
    if (splitter_ == nullptr) return sink(text, place);
    hand_on(text, place, splitter_, sink);
  }

 private:
  bool add_prefix_space_;
  Splitter splitter_;
};

class Metaspace : public PreTokenizer {
 public:
  explicit Metaspace(const JsonFields& fields)
      : space_(fields.character("replacement", "\xE2\x96\x81")),
        split_(fields.flag("split", true)) {
    const std::string scheme = fields.text("prepend_scheme", "always");
    require(scheme == "always" || scheme == "first" || scheme == "never",
            "{} is \"{}\"; wanted always, first or never", fields.place_of("prepend_scheme"),
            printable(scheme));
    always_ = scheme == "always" && fields.flag("add_prefix_space", true);
    first_ = scheme == "first";
  }

  void split(std::string_view text, Place place, Sink sink) const override {
    std::string spaced;
    for (const char c : text) {
      if (c == ' ') {
        spaced += space_;
      } else {
        spaced.push_back(c);
      }
    }
    const bool wanted = place != Place::continued && (always_ || (first_ && place == Place::start));
    std::string buffer;
    const std::string_view whole = with_space(spaced, space_, wanted, buffer);
    if (!split_) return sink(whole, place);
    std::vector<Span> spans;
    for (auto at = whole.find(space_); at != std::string_view::npos;
         at = whole.find(space_, at + space_.size())) {
      add_match(spans, at, at + space_.size());
    }
    add_last_gap(spans, whole.size());
    hand_on(whole, place, joined(spans, Behavior::merged_with_next), sink);
  }

 private:
  std::string space_;
  bool always_, first_, split_;
};

// \w+|[^\w\s]+ : words and what stands between them, white space dropped. The zero-width joiners
// belong to words, as Unicode's recommendation for \w has it.
class Whitespace : public PreTokenizer {
 public:
  void split(std::string_view text, Place place, Sink sink) const override {
    enum class Kind { none, word, other };
    Kind run = Kind::none;
    std::size_t begin = 0;
    const auto end_run = [&](std::size_t end) {
      if (run == Kind::none) return;
      sink(text.substr(begin, end - begin), begin == 0 ? place : Place::later);
    };
    for (std::size_t at = 0; at < text.size();) {
      const auto c = unicode::code_point(text, at);
      const auto classes = unicode::classes(c.value);
      const bool joiner = c.value == 0x200C || c.value == 0x200D;
      const Kind kind = (classes & unicode::word) || joiner ? Kind::word
                        : (classes & unicode::space)        ? Kind::none
                                                            : Kind::other;
      if (kind != run) {
        end_run(at);
        run = kind;
        begin = at;
      }
      at += c.bytes;
    }
    end_run(text.size());
  }
};

class FixedLength : public PreTokenizer {
 public:
  explicit FixedLength(std::int32_t length) : length_(length) {}
  void split(std::string_view text, Place place, Sink sink) const override {
    std::size_t begin = 0;
    std::int32_t characters = 0;
    for (std::size_t at = 0; at < text.size();) {
      at += unicode::code_point(text, at).bytes;
      if (++characters < length_ && at < text.size()) continue;
      sink(text.substr(begin, at - begin), begin == 0 ? place : Place::later);
      begin = at;
      characters = 0;
    }
  }

 private:
  std::int32_t length_;
};

std::unique_ptr<PreTokenizer> read_stage(const JsonFields& fields) {
  const std::string type = fields.type();
  if (type == "Split") return std::make_unique<Split>(fields);
  if (type == "ByteLevel") return std::make_unique<ByteLevel>(fields);
  if (type == "Metaspace") return std::make_unique<Metaspace>(fields);
  if (type == "Digits") {
    const bool each = fields.flag("individual_digits", false);
    return split_characters(each ? Behavior::isolated : Behavior::contiguous, [](char32_t c) {
      return (unicode::classes(c) & unicode::number) != 0;
    });
  }
  if (type == "Punctuation") {
    return split_characters(read_behavior(fields, "Isolated"), unicode::is_punctuation);
  }
  if (type == "Whitespace") return std::make_unique<Whitespace>();
  if (type == "WhitespaceSplit") return split_characters(Behavior::removed, unicode::is_space);
  if (type == "CharDelimiterSplit") {
    const char32_t delimiter = unicode::code_point(fields.character("delimiter"), 0).value;
    return split_characters(Behavior::removed, [=](char32_t c) { return c == delimiter; });
  }
  if (type == "FixedLength") {
    const std::int32_t length = fields.number("length");
    require(length > 0, "{} is 0", fields.place_of("length"));
    return std::make_unique<FixedLength>(length);
  }
  fields.refuse_type(
      "Sequence, Split, ByteLevel, Metaspace, Digits, Whitespace, WhitespaceSplit, Punctuation, "
      "CharDelimiterSplit, FixedLength");
}

constexpr std::size_t most_stages = 64;

void read_into(const nlohmann::json& json, const std::string& place, PreTokenizers& all) {
  if (json.is_null()) return;
  const JsonFields fields(json, place);
  if (fields.type() == "Sequence") {
    std::size_t i = 0;
    for (const auto& one : fields.list("pretokenizers")) {
      read_into(one, fmt::format("{}[{}]", fields.place_of("pretokenizers"), i++), all);
    }
    return;
  }
  require(!all.byte_level, "{} comes after ByteLevel; metala reads ByteLevel as the last only",
          place);
  require(all.stages.size() < most_stages, "{} is one of more than {}", place, most_stages);
  all.byte_level = fields.type() == "ByteLevel";
  all.stages.push_back(read_stage(fields));
}

}  // namespace

void PreTokenizers::split(std::string_view text, Place place, PreTokenizer::Sink sink) const {
  struct Run {
    const PreTokenizers& all;
    PreTokenizer::Sink sink;
    void from(std::size_t stage, std::string_view piece, Place at) const {
      if (piece.empty()) return;
      if (stage == all.stages.size()) return sink(piece, at);
      all.stages[stage]->split(
          piece, at, [&](std::string_view part, Place part_at) { from(stage + 1, part, part_at); });
    }
  };
  Run{*this, sink}.from(0, text, place);
}

PreTokenizers read_pre_tokenizers(const nlohmann::json& json, const std::string& place) {
  PreTokenizers all;
  read_into(json, place, all);
  return all;
}

}  // namespace metala
