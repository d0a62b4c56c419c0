// Strings as Python sees them: sequences of characters, held as UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "metala/text/jinja_budget.h"

namespace metala::jinja {

void append_utf8(char32_t character, std::string& out);
// Of one whole character.
char32_t decode_utf8(std::string_view character);

// `text` is valid UTF-8 in all of these.
std::size_t characters(std::string_view text);
std::string_view first_character(std::string_view text);  // which is not empty
std::vector<std::string_view> split_characters(std::string_view text);

// Without white space (Unicode's), or without any of the characters of `set`, at an end.
std::string_view trim_left(std::string_view text);
std::string_view trim_right(std::string_view text);
std::string_view trim_left(std::string_view text, std::string_view set);
std::string_view trim_right(std::string_view text, std::string_view set);

// Splits at runs of white space; at most `most` cuts (-1: any number), from the front or the back.
std::vector<std::string> split(std::string_view text, std::int64_t most);
std::vector<std::string> split_from_back(std::string_view text, std::int64_t most);
// Splits at every `separator`, which is not empty.
std::vector<std::string> split(std::string_view text, std::string_view separator,
                               std::int64_t most);
std::vector<std::string> split_from_back(std::string_view text, std::string_view separator,
                                         std::int64_t most);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);
// No fewer than the line ends that split_lines finds, quickly counted.
std::size_t possible_lines(std::string_view text);

// What looking for `part` may cost where both repeat themselves, in steps of a budget.
std::size_t search_steps(std::string_view text, std::string_view part);
std::size_t count(std::string_view text, std::string_view part);
// With `from` replaced by `to`, at most `most` times (-1: everywhere). As in Python, an empty
// `from` stands between all characters.
std::string replace(std::string_view text, std::string_view from, std::string_view to,
                    std::int64_t most, Budget& budget);

// Letters of Latin-1, Latin Extended-A, Greek and Cyrillic change case one to one; others stay.
std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
// Python's: a letter after anything else than a letter becomes upper case.
std::string title(std::string_view text);

}  // namespace metala::jinja
