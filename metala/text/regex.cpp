#include "metala/text/regex.h"

#include <oniguruma.h>

#include "metala/base/error.h"
#include "metala/io/printable.h"
#include "metala/text/unicode.h"

namespace metala {
namespace {

constexpr std::size_t longest_pattern = std::size_t{1} << 16;
constexpr unsigned long most_steps = 10'000'000;
constexpr unsigned deepest_stack = 8'000'000;  // entries, of some 50 bytes

const OnigUChar* bytes_of(std::string_view text) {
  return reinterpret_cast<const OnigUChar*>(text.data());
}

std::string reason(int status, OnigErrorInfo* info = nullptr) {
  OnigUChar text[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int length = info == nullptr ? onig_error_code_to_str(text, status)
                                     : onig_error_code_to_str(text, status, info);
  return printable({reinterpret_cast<const char*>(text), static_cast<std::size_t>(length)});
}

// {n,m}+ is possessive in tiktoken's language, a repeated repetition in Perl's of Oniguruma.
OnigSyntaxType* perl_syntax() {
  static OnigSyntaxType syntax = [] {
    OnigSyntaxType perl;
    onig_copy_syntax(&perl, ONIG_SYNTAX_PERL_NG);
    onig_set_syntax_op2(&perl, onig_get_syntax_op2(&perl) | ONIG_SYN_OP2_PLUS_POSSESSIVE_INTERVAL);
    return perl;
  }();
  return &syntax;
}

// What one search needs; freed at the end of the scope.
struct Search {
  OnigRegion* region = onig_region_new();
  OnigMatchParam* limits = onig_new_match_param();
  Search() {
    onig_initialize_match_param(limits);
    onig_set_match_stack_limit_size_of_match_param(limits, deepest_stack);
    onig_set_retry_limit_in_match_of_match_param(limits, most_steps);
    onig_set_retry_limit_in_search_of_match_param(limits, most_steps);
  }
  ~Search() {
    onig_region_free(region, 1);
    onig_free_match_param(limits);
  }
  Search(const Search&) = delete;
  Search& operator=(const Search&) = delete;
};

}  // namespace

Regex::Regex(const std::string& pattern, Syntax syntax, const std::string& source)
    : source_(source) {
  require(pattern.size() <= longest_pattern, "{}: the pattern has {} bytes; at most {} are read",
          source, pattern.size(), longest_pattern);
  unicode::ClassTable::get();  // initialises Oniguruma once
  regex_t* compiled = nullptr;
  OnigErrorInfo info;
  const OnigUChar* begin = bytes_of(pattern);
  const int status =
      onig_new(&compiled, begin, begin + pattern.size(), ONIG_OPTION_NONE, ONIG_ENCODING_UTF8,
               syntax == Syntax::perl ? perl_syntax() : ONIG_SYNTAX_DEFAULT, &info);
  require(status == ONIG_NORMAL, "{}: \"{}\" is no regular expression: {}", source,
          printable(pattern), reason(status, &info));
  compiled_ = std::shared_ptr<void>(compiled, [](void* c) { onig_free(static_cast<regex_t*>(c)); });
}

void Regex::each(std::string_view text, FunctionRef<void(std::size_t, std::size_t)> match) const {
  const Search search;
  const OnigUChar* const begin = bytes_of(text);
  const OnigUChar* const end = begin + text.size();
  std::size_t from = 0;
  std::size_t last_end = std::string_view::npos;
  while (from <= text.size()) {
    onig_region_clear(search.region);
    const int status =
        onig_search_with_param(static_cast<regex_t*>(compiled_.get()), begin, end, begin + from,
                               end, search.region, ONIG_OPTION_NONE, search.limits);
    if (status == ONIG_MISMATCH) return;
    require(status >= 0, "{}: the pattern takes too much on this text: {}", source_,
            reason(status));
    const auto match_begin = static_cast<std::size_t>(search.region->beg[0]);
    const auto match_end = static_cast<std::size_t>(search.region->end[0]);
    if (match_begin == match_end && match_end == last_end) {
      from += from < text.size() ? unicode::code_point(text, from).bytes : 1;
      continue;
    }
    match(match_begin, match_end);
    from = last_end = match_end;
  }
}

}  // namespace metala
