// metala data prepare: text to tokens on disk.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "metala/base/error.h"
#include "metala/base/threads.h"
#include "metala/cli/checks.h"
#include "metala/cli/data_commands.h"
#include "metala/cli/interrupt.h"
#include "metala/data/dataset_info.h"
#include "metala/data/prepare.h"
#include "metala/train/progress.h"

namespace metala::cli {
namespace {

struct Options {
  PrepareOptions prepare;
  std::string format = "by-name", malformed = "fail";
  bool no_end = false, json = false;
  bool vocabulary_given = false;
};

nlohmann::ordered_json as_json(const PrepareReport& r, const std::string& prefix, double seconds) {
  nlohmann::ordered_json j;
  j["output"] = prefix;
  j["documents"] = r.documents;
  j["tokens"] = r.tokens;
  j["text_bytes"] = r.text_bytes;
  j["empty"] = r.empty;
  for (int kind = 0; kind < malformed_kinds; ++kind) {
    j["malformed"][name_of(static_cast<Malformed>(kind))] =
        r.malformed[static_cast<std::size_t>(kind)];
  }
  j["examples"] = r.examples;
  j["seconds"] = seconds;
  return j;
}

void say_report(const PrepareReport& r, const std::string& prefix, double seconds,
                std::uint64_t bytes_before) {
  const auto text = static_cast<double>(r.text_bytes);
  fmt::print(stderr, "{}: {} documents, {} tokens ({:.2f} bytes each), {:.1f} MB of text\n", prefix,
             r.documents, r.tokens, text / static_cast<double>(std::max<std::int64_t>(r.tokens, 1)),
             text / 1e6);
  const double rate = static_cast<double>(r.text_bytes - bytes_before) / 1e6 / seconds;
  fmt::print(stderr, "{} at {:.1f} MB/s\n", short_time(seconds), rate);
  if (r.empty > 0) fmt::print(stderr, "left out: {} empty\n", r.empty);
  for (int kind = 0; kind < malformed_kinds; ++kind) {
    const auto count = r.malformed[static_cast<std::size_t>(kind)];
    if (count > 0) {
      fmt::print(stderr, "left out: {} {}\n", count, name_of(static_cast<Malformed>(kind)));
    }
  }
  for (const auto& example : r.examples) fmt::print(stderr, "  {}\n", example);
}

void run(Options& o) {
  PrepareOptions& p = o.prepare;
  if (p.inputs.empty())
    throw UsageError("no text to prepare: name files or folders, or - for stdin");
  if (p.prefix.empty()) throw UsageError("give the tokens a name: --output PREFIX");
  if (o.vocabulary_given && p.tokenizer.name != "sentencepiece") {
    throw UsageError("--vocab-size is for --tokenizer sentencepiece, which learns one");
  }
  p.append_end = !o.no_end;
  p.skip_malformed = o.malformed == "skip";
  if (o.format == "jsonl") p.documents.format = DocumentFormat::jsonl;
  if (o.format == "text") p.documents.format = DocumentFormat::text;
  const auto parent = std::filesystem::path(p.prefix).parent_path();
  std::error_code failure;
  if (!parent.empty()) std::filesystem::create_directories(parent, failure);
  require(!failure, "{}: cannot create: {}", parent.string(), failure.message());

  catch_interrupts();
  const auto total = static_cast<double>(prepare_bytes(p)) / 1e6;
  ProgressBar bar("preparing", total, "MB");
  std::uint64_t bytes_before = 0;
  bool first = true;
  PrepareEvents events;
  events.interrupted = interrupted;
  events.progress = [&](const PrepareReport& r) {
    if (std::exchange(first, false) && p.resume) bytes_before = r.text_bytes;
    bar.update(
        static_cast<double>(r.consumed) / 1e6,
        fmt::format("{} documents, {} tokens", short_number(static_cast<double>(r.documents)),
                    short_number(static_cast<double>(r.tokens))),
        static_cast<double>(r.text_bytes) / 1e6);
  };
  const auto start = std::chrono::steady_clock::now();
  const PrepareReport report = prepare(p, events);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  bar.finish();
  require(report.finished, "{}: stopped after {} documents; go on with --resume", p.prefix,
          report.documents);
  say_report(report, p.prefix, seconds, bytes_before);
  if (o.json)
    fmt::print("{}\n", as_json(report, p.prefix, seconds)
                           .dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace

void add_data_prepare(CLI::App& data) {
  auto o = std::make_shared<Options>();
  PrepareOptions& p = o->prepare;
  p.threads = thread_count();
  CLI::App* command =
      data.add_subcommand("prepare", "Text to tokens on disk: PREFIX.bin, PREFIX.idx");
  command->add_option(
      "inputs", p.inputs,
      "Text files, folders, .jsonl files (of text, or of ids and labels), any of them "
      ".gz or .zst; - for stdin");
  command->add_option("-o,--output", p.prefix, "PREFIX of the files to write");
  command
      ->add_option("--tokenizer", p.tokenizer.name,
                   "bytes; sentencepiece (learned from the text); or a tokenizer file or folder")
      ->capture_default_str();
  command->add_option("--vocab-size", p.tokenizer.vocabulary, "Pieces of a learned vocabulary")
      ->capture_default_str()
      ->check(CLI::Range(300, 1000000));
  command->add_option("--format", o->format, "by-name, or what every file is: jsonl, text")
      ->capture_default_str()
      ->check(CLI::IsMember({"by-name", "jsonl", "text"}));
  command->add_option("--text-field", p.documents.text_field, "Field of .jsonl lines")
      ->capture_default_str();
  command->add_flag("--replace-invalid", p.documents.replace_invalid,
                    "Replace what is not UTF-8 instead of counting it as malformed");
  command
      ->add_option("--malformed", o->malformed,
                   "What to do about a document that cannot be read: fail, or skip and report")
      ->capture_default_str()
      ->check(CLI::IsMember({"fail", "skip"}));
  command->add_flag("--no-end", o->no_end, "No end token after each document");
  command->add_option("--threads", p.threads, "Threads; default: all")->check(CLI::Range(1, 4096));
  command->add_flag("--resume", p.resume, "Go on with a job that was stopped or killed");
  command->add_flag("--overwrite", p.overwrite, "Replace what is there");
  command->add_flag("--json", o->json, "The report to stdout");
  command->callback([o, command] {
    o->vocabulary_given = command->get_option("--vocab-size")->count() > 0;
    run(*o);
  });
}

}  // namespace metala::cli
