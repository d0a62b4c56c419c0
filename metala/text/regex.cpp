#include "metala/text/regex.h"

#include <oniguruma.h>

#include <algorithm>
#include <ctime>

#include "metala/base/error.h"
#include "metala/io/printable.h"
#include "metala/text/unicode.h"

namespace metala {
namespace {

constexpr std::size_t longest_pattern = std::size_t{1} << 16;
constexpr unsigned deepest_stack = 8'000'000;  // entries, of some 50 bytes

// What a search may backtrack: enough for a pattern that tries every end from every beginning of
// some thousand characters, which some do with a run of white space.
unsigned long most_steps(std::size_t bytes) {
  constexpr std::size_t any_text = 20'000, each_byte = 2'000, most = 10'000'000;
  return bytes < most / each_byte ? std::min(any_text + each_byte * bytes, most) : most;
}

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
  explicit Search(unsigned long steps) {
    onig_initialize_match_param(limits);
    onig_set_match_stack_limit_size_of_match_param(limits, deepest_stack);
    onig_set_retry_limit_in_match_of_match_param(limits, steps);
    onig_set_retry_limit_in_search_of_match_param(limits, steps);
  }
  ~Search() {
    onig_region_free(region, 1);
    onig_free_match_param(limits);
  }
  Search(const Search&) = delete;
  Search& operator=(const Search&) = delete;
};

// The time of this thread's processor that a text's searches take together: each may look at the
// whole text and go back nowhere, which counts no steps.
class Patience {
 public:
  explicit Patience(std::size_t bytes) : end_(now() + 0.02 + 10e-6 * static_cast<double>(bytes)) {}

  // Looks at the clock now and then.
  bool over() { return ++asked_ % 64 == 0 && now() > end_; }

 private:
  static double now() {
    std::timespec time = {};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }

  double end_;
  unsigned asked_ = 0;
};

}  // namespace

Regex::Regex(const std::string& pattern, Syntax syntax, const std::string& source)
    : source_(source), looks_at_start_(pattern.find("\\G") != std::string::npos) {
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
  const Search search(most_steps(text.size()));
  Patience patience(text.size());
  auto* const regex = static_cast<regex_t*>(compiled_.get());
  const OnigUChar* const begin = bytes_of(text);
  const OnigUChar* const end = begin + text.size();
  const auto check = [&](int status) {
    require(status >= ONIG_MISMATCH && !patience.over(),
            "{}: the pattern takes too much on this text: {}", source_,
            status < ONIG_MISMATCH ? reason(status) : "its time is over");
    return status != ONIG_MISMATCH;
  };
  const auto next = [&](std::size_t at) {
    return at + (at < text.size() ? unicode::code_point(text, at).bytes : 1);
  };
  // Leaves the first match from a place on in the region. A long text is tried place by place,
  // since a search cannot be stopped, and what follows each place may be looked at to the end.
  constexpr std::size_t long_text = 32768;  // of which a search takes no more than some seconds
  const bool by_place = text.size() > long_text && !looks_at_start_;
  const auto found = [&](std::size_t from) {
    onig_region_clear(search.region);
    if (!by_place) {
      return check(onig_search_with_param(regex, begin, end, begin + from, end, search.region,
                                          ONIG_OPTION_NONE, search.limits));
    }
    for (; from <= text.size(); from = next(from)) {
      if (check(onig_match_with_param(regex, begin, end, begin + from, search.region,
                                      ONIG_OPTION_NONE, search.limits))) {
        return true;
      }
    }
    return false;
  };
  std::size_t from = 0;
  std::size_t last_end = std::string_view::npos;
  while (from <= text.size() && found(from)) {
    const auto match_begin = static_cast<std::size_t>(search.region->beg[0]);
    const auto match_end = static_cast<std::size_t>(search.region->end[0]);
    if (match_begin == match_end && match_end == last_end) {
      from = next(from);
      continue;
    }
    match(match_begin, match_end);
    from = last_end = match_end;
  }
}

}  // namespace metala
