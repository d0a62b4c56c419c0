#include "metala/text/unicode.h"

#include <oniguruma.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>

#include "metala/base/error.h"

namespace metala::unicode {
namespace {

constexpr char32_t beyond = 0x110000;

// Sets `bit` for the code points of a property, as Oniguruma names it.
void mark_property(std::vector<std::uint8_t>& all, const char* name, std::uint8_t bit) {
  OnigEncoding utf8 = ONIG_ENCODING_UTF8;
  std::string spelled = name;
  auto* begin = reinterpret_cast<OnigUChar*>(spelled.data());
  const int type = utf8->property_name_to_ctype(utf8, begin, begin + spelled.size());
  require(type >= 0, "Oniguruma does not know the property {}", spelled);
  OnigCodePoint first_multibyte = 0;
  const OnigCodePoint* ranges = nullptr;
  utf8->get_ctype_code_range(static_cast<OnigCtype>(type), &first_multibyte, &ranges);
  for (OnigCodePoint i = 0; i < ranges[0]; ++i) {
    const OnigCodePoint last = std::min<OnigCodePoint>(ranges[2 + 2 * i], beyond - 1);
    for (OnigCodePoint c = ranges[1 + 2 * i]; c <= last; ++c) all[c] |= bit;
  }
}

int utf8proc_options(Form form) {
  switch (form) {
    case Form::nfc:
      return UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    case Form::nfd:
      return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    case Form::nfkc:
      return UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
    case Form::nfkd:
      return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
  }
  return 0;
}

}  // namespace

void append(std::string& text, char32_t c) {
  utf8proc_uint8_t bytes[4];
  const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count));
}

const ClassTable& ClassTable::get() {
  static const ClassTable table;
  return table;
}

ClassTable::ClassTable() {
  OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
  onig_initialize(encodings, 1);
  std::vector<std::uint8_t> all(beyond);
  mark_property(all, "L", letter);
  mark_property(all, "N", number);
  mark_property(all, "Space", space);
  mark_property(all, "M", mark);
  mark_property(all, "Word", word);
  std::map<std::string, std::uint16_t> known;
  for (std::size_t at = 0; at < all.size(); at += 256) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(at);
    const auto [place, fresh] =
        known.emplace(std::string(begin, begin + 256), static_cast<std::uint16_t>(known.size()));
    if (fresh) pages_.insert(pages_.end(), begin, begin + 256);
    page_of_.push_back(place->second);
  }
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
  }
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

std::string normalised(std::string_view text, Form form) {
  utf8proc_uint8_t* mapped = nullptr;
  const auto count = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                  static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                  static_cast<utf8proc_option_t>(utf8proc_options(form)));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(mapped, std::free);
  require(count >= 0, "tokenizer: cannot normalise the text: {}", utf8proc_errmsg(count));
  return {reinterpret_cast<const char*>(mapped), static_cast<std::size_t>(count)};
}

// Below U+0300 nothing composes or is composed, below U+00A0 nothing decomposes.
bool surely_normalised(std::string_view text, Form form) {
  const unsigned char first_doubtful = form == Form::nfc ? 0xCC : 0x80;
  return std::all_of(text.begin(), text.end(),
                     [&](char c) { return static_cast<unsigned char>(c) < first_doubtful; });
}

std::string lowercased(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint c = code_point(text, at);
    if (c.value == 0x130) {  // the one letter whose lower case is two characters
      out += "i\xCC\x87";
    } else {
      append(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.value))));
    }
    at += c.bytes;
  }
  return out;
}

}  // namespace metala::unicode
