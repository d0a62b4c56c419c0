// metala tokenize: the tokens of a text, and the text of tokens.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "metala/base/error.h"
#include "metala/cli/commands.h"
#include "metala/io/file.h"
#include "metala/text/tokenizer.h"
#include "metala/text/utf8.h"
#include "metala/train/run_folder.h"

namespace metala::cli {
namespace {

using Json = nlohmann::ordered_json;
using Ids = std::vector<std::int32_t>;

constexpr std::size_t largest_file = std::size_t{4} << 30;

struct Options {
  std::string tokenizer;
  std::vector<std::string> words;
  std::string file;
  bool decode = false;
  bool ids_only = false;
  bool lines = false;
  bool as_text = false;
  bool frame = false;
  bool json = false;
};

std::string standard_input() {
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

std::string input(const Options& options) {
  if (!options.file.empty()) return read_file(options.file, largest_file);
  if (options.words.empty() || options.words == std::vector<std::string>{"-"}) {
    return standard_input();
  }
  return fmt::format("{}", fmt::join(options.words, " "));
}

// Numbers with anything that is not a digit between them: "1 2 3", "[1, 2, 3]".
Ids parse_ids(const std::string& text) {
  Ids ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    if (*at < '0' || *at > '9') {
      require(
          std::string_view(" \t\r\n,[]").find(*at) != std::string_view::npos,
          "tokenize: --decode wants ids, numbers of 0 or more; got \"{}\"",
          spell_invalid_utf8({at, std::min<std::size_t>(20, static_cast<std::size_t>(end - at))}));
      ++at;
      continue;
    }
    std::int32_t id = 0;
    const auto [past, problem] = std::from_chars(at, end, id);
    require(problem == std::errc(), "tokenize: an id is larger than 2^31 - 1");
    ids.push_back(id);
    at = past;
  }
  return ids;
}

// The text of all tokens, special ones by their names: what a round trip is to give back.
std::string written_out(const Tokenizer& tokenizer, const Ids& ids) {
  std::string text;
  bool begun = false;
  for (const auto id : ids) {
    const auto bytes = begun ? tokenizer.bytes(id) : tokenizer.first_bytes(id);
    const bool special = tokenizer.bytes(id).empty();
    text += special ? tokenizer.piece(id) : std::string(bytes);
    begun = begun || tokenizer.begins_text(id);
  }
  return text;
}

void print_json(const Json& json) {
  fmt::print("{}\n", json.dump(1, ' ', false, Json::error_handler_t::replace));
}

void decode(const Options& options, const Tokenizer& tokenizer) {
  const Ids ids = parse_ids(input(options));
  for (const auto id : ids) {
    require(id < tokenizer.size(), "tokenize: there is no id {}; {} has {} ids", id,
            options.tokenizer, tokenizer.size());
  }
  if (options.json) {
    print_json({{"ids", ids}, {"text", tokenizer.text(ids)}});
    return;
  }
  const std::string text = tokenizer.decode(ids);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::puts("");
}

// Between what the tokenizer puts around a text, where that is asked for.
Ids framed(const Options& options, const Tokenizer& tokenizer, Ids ids) {
  if (!options.frame) return ids;
  const auto frame = tokenizer.frame();
  ids.insert(ids.begin(), frame.before.begin(), frame.before.end());
  ids.insert(ids.end(), frame.after.begin(), frame.after.end());
  return ids;
}

struct Encoded {
  std::string text;
  Ids ids;
  double seconds = 0;
  std::string back;  // what the ids say
};

Encoded encoded(const Options& options, const Tokenizer& tokenizer) {
  Encoded e;
  e.text = input(options);
  const auto start = std::chrono::steady_clock::now();
  e.ids = tokenizer.encode(e.text, {.special = !options.as_text});
  e.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  e.back = written_out(tokenizer, e.ids);
  e.ids = framed(options, tokenizer, std::move(e.ids));
  return e;
}

void report_json(const Options& options, const Tokenizer& tokenizer, const Encoded& e) {
  Json json = {
      {"tokenizer", tokenizer.description()}, {"bytes", e.text.size()}, {"tokens", e.ids.size()},
      {"round_trip", e.back == e.text},       {"seconds", e.seconds},   {"ids", e.ids}};
  if (!options.ids_only) {
    Json pieces = Json::array();
    for (const auto id : e.ids) pieces.push_back(tokenizer.piece(id));
    json["pieces"] = std::move(pieces);
  }
  fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

// A byte that would disturb the table is shown as its number.
std::string shown(const std::string& piece) {
  std::string out;
  for (const char c : piece) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out.push_back(c);
    }
  }
  return out;
}

void report(const Options& options, const Tokenizer& tokenizer, const Encoded& e) {
  if (options.ids_only) {
    fmt::print("{}\n", fmt::join(e.ids, " "));
  } else {
    for (const auto id : e.ids) fmt::print("{:>7}  {}\n", id, shown(tokenizer.piece(id)));
  }
  const double each =
      e.ids.empty() ? 0 : static_cast<double>(e.text.size()) / static_cast<double>(e.ids.size());
  fmt::print(stderr, "{} tokens, {} bytes, {:.2f} bytes a token; {}\n", e.ids.size(), e.text.size(),
             each, e.back == e.text ? "the text comes back exactly" : "another text comes back");
}

// A training run's tokenizer stands in its checkpoints.
std::string resolved(const std::string& named) {
  require(std::filesystem::exists(named), "{}: no such file or folder", named);
  if (!std::filesystem::is_directory(named)) return named;
  const auto newest = newest_checkpoint(named);
  return newest ? newest->folder : named;
}

// The ids of each line on a line.
void encode_lines(const Options& options, const Tokenizer& tokenizer) {
  const std::string all = input(options);
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t end = std::min(all.find('\n', at), all.size());
    const auto line = std::string_view(all).substr(at, end - at);
    const Ids ids =
        framed(options, tokenizer, tokenizer.encode(line, {.special = !options.as_text}));
    at = end + 1;
    if (options.json) {
      fmt::print("{}\n", Json(ids).dump());
    } else {
      fmt::print("{}\n", fmt::join(ids, " "));
    }
  }
}

void run(const Options& options) {
  const auto tokenizer = open_tokenizer(resolved(options.tokenizer));
  if (options.decode) return decode(options, *tokenizer);
  if (options.lines) return encode_lines(options, *tokenizer);
  const Encoded e = encoded(options, *tokenizer);
  if (options.json) {
    report_json(options, *tokenizer, e);
  } else {
    report(options, *tokenizer, e);
  }
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command = app.add_subcommand("tokenize", "Show the tokens of a text, or their text");
  command
      ->add_option("tokenizer", o.tokenizer,
                   "Model folder, training run, tokenizer.json, .model or .tiktoken")
      ->required();
  auto* words = command->add_option("text", o.words, "Text, or ids; default: standard input");
  command->add_option("--file", o.file, "Read the text, or the ids, from a file")->excludes(words);
  auto* decode = command->add_flag("--decode", o.decode, "From ids to text");
  command->add_flag("--ids", o.ids_only, "Ids only, without their pieces");
  command->add_flag("--lines", o.lines, "Each line is a text: its ids on a line")->excludes(decode);
  command->add_flag("--as-text", o.as_text, "Names of special tokens are text like any other")
      ->excludes(decode);
  command->add_flag("--frame", o.frame, "Add what the tokenizer puts around a text, such as <s>")
      ->excludes(decode);
  command->add_flag("--json", o.json, "Print JSON: ids, pieces, counts, round trip, seconds");
  command->callback([options] { run(*options); });
}

}  // namespace metala::cli
