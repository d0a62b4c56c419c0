// metala: the command line. Data goes to stdout, talk to stderr; the exit status is 0 for success,
// 1 for a file or machine that failed, 2 for a command called wrongly.
#include <cblas.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "metala/base/error.h"
#include "metala/base/nearest_word.h"
#include "metala/cli/commands.h"
#include "metala/distributed/launch.h"
#include "metala/io/printable.h"

namespace metala::cli {
namespace {

// The command that was being parsed: the innermost subcommand given, or the program.
const CLI::App* parsed_command(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return chosen.empty() ? &app : parsed_command(*chosen.front());
}

// "metala data prepare"
std::string full_name(const CLI::App& app) {
  const CLI::App* parent = app.get_parent();
  return parent == nullptr ? app.get_name() : full_name(*parent) + " " + app.get_name();
}

bool has_commands(const CLI::App& app) {
  return !app.get_subcommands([](const CLI::App*) { return true; }).empty();
}

std::string nearest(const CLI::App& app, const std::string& word) {
  std::vector<std::string> names;
  const CLI::App* command = parsed_command(app);
  for (const auto* option : command->get_options()) {
    for (const auto& name : option->get_lnames()) names.push_back("--" + name);
  }
  for (const auto* sub : command->get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(sub->get_name());
  }
  return nearest_word(word, names);
}

// Every rank of a job reads the same words; rank 0 says what is wrong with them.
bool speaks() {
  try {
    return launch_from(environment_variable).rank == 0;
  } catch (const Error&) {
    return true;
  }
}

int misuse(const CLI::App& app, const std::string& problem) {
  const CLI::App* command = parsed_command(app);
  if (command->get_name() == "train" && !speaks()) return 2;
  const std::string name = full_name(*command);
  const char* stop = problem.ends_with('?') ? "" : ".";
  fmt::print(stderr, "{}: {}{} See {} --help.\n", name, one_line(problem), stop, name);
  return 2;
}

// CLI11 takes a word in brackets for a list, and "[INST] a, b [/INST]" for two prompts. So words
// that end in one are marked before it reads them, with what no word from a shell holds.
constexpr char bracket_mark = '\0';

std::vector<std::string> marked(std::vector<std::string> words) {
  for (auto& word : words) {
    if (word.ends_with(']')) word.push_back(bracket_mark);
  }
  return words;
}

std::string unmarked(std::string word) {
  if (word.ends_with(bracket_mark)) word.pop_back();
  return word;
}

// An option gets its words as they were typed, and one that takes texts takes one each time it is
// given: the next word may be the prompt.
void take_words_as_they_are(CLI::App& app) {
  for (auto* option : app.get_options()) {
    if (option->get_items_expected_max() == 0) continue;  // a flag
    option->transform(unmarked);
    const bool texts = option->get_type_name() == "TEXT" && option->get_allow_extra_args();
    if (texts && !option->get_positional()) option->allow_extra_args(false);
  }
  for (auto* command : app.get_subcommands([](CLI::App*) { return true; })) {
    take_words_as_they_are(*command);
  }
}

// "no option --foo; did you mean --for?"
std::string unknown_word(const CLI::App& app, const std::string& given) {
  const std::string word = unmarked(given.substr(0, given.find('=')));
  const bool command = has_commands(*parsed_command(app));
  const char* kind = word.starts_with("-") ? "option" : command ? "command" : "argument";
  const std::string close = nearest(app, word);
  return fmt::format("no {} {}{}", kind, word,
                     close.empty() ? "" : "; did you mean " + close + "?");
}

int report_parse_error(const CLI::App& app, const std::vector<std::string>& words,
                       const CLI::ParseError& error) {
  // CLI11 names everything left over; the first word is what the user needs to hear about.
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    return misuse(app, unknown_word(app, app.remaining(true).front()));
  }
  // A missing command, when there is a word, is a command that does not exist.
  if (parsed_command(app) == &app && !words.empty()) {
    return misuse(app, unknown_word(app, words.front()));
  }
  if (has_commands(*parsed_command(app)) && words.size() > 1) {
    return misuse(app, unknown_word(app, words[1]));
  }
  return misuse(app, error.what());
}

int run(int argc, char** argv) {
  CLI::App app("MetaLA language models: generate, train, verify, measure.", "metala");
  app.set_version_flag("--version", "metala " METALA_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  add_generate(app);
  add_chat(app);
  add_train(app);
  add_data(app);
  add_plot(app);
  add_convert(app);
  add_inspect(app);
  add_tokenize(app);
  add_verify(app);
  add_bench(app);
  add_doctor(app);
  take_words_as_they_are(app);
  const std::vector<std::string> words(argv + 1, argv + argc);
  auto from_the_end = marked(words);
  std::reverse(from_the_end.begin(), from_the_end.end());
  try {
    app.parse(std::move(from_the_end));
  } catch (const CLI::Success& done) {  // --help, --version
    return app.exit(done);
  } catch (const CLI::ParseError& error) {
    return report_parse_error(app, words, error);
  } catch (const UsageError& error) {
    return misuse(app, error.what());
  }
  // What is still buffered may not find room: a full disk must not look like success.
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    throw Error(fmt::format("cannot write to standard output: {}", std::strerror(errno)));
  }
  return 0;
}

}  // namespace
}  // namespace metala::cli

int main(int argc, char** argv) {
  try {
    return metala::cli::run(argc, argv);
  } catch (const std::bad_alloc&) {
    std::fputs("metala: out of memory\n", stderr);
  } catch (const std::exception& error) {
    fmt::print(stderr, "metala: {}\n", metala::one_line(error.what()));
  }
  return 1;
}
