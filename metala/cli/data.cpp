// metala data: prepared tokens, seen, measured, joined and cut.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "metala/base/error.h"
#include "metala/cli/checks.h"
#include "metala/cli/commands.h"
#include "metala/cli/data_commands.h"
#include "metala/data/choose_tokenizer.h"
#include "metala/data/dataset_info.h"
#include "metala/data/dataset_tools.h"
#include "metala/data/splits.h"
#include "metala/train/progress.h"

namespace metala::cli {
namespace {

struct ShowOptions {
  std::string dataset, tokenizer;
  std::int64_t document = 0, count = 1, tokens = 200;
  bool ids = false, labels = false;
};

std::unique_ptr<Tokenizer> tokenizer_of(const TokenDataset& set, const std::string& named) {
  if (!named.empty()) return choose_tokenizer({named, 0}, {}, {});
  if (!std::filesystem::exists(tokenizer_folder(set.prefix()))) return nullptr;
  return open_tokenizer(tokenizer_folder(set.prefix()));
}

void show(const ShowOptions& o) {
  const TokenDataset set = TokenDataset::open(o.dataset);
  const auto labels = o.labels ? labels_of(set) : std::nullopt;
  require(!o.labels || labels, "{}: was prepared without labels", set.prefix());
  if (labels) check_labels(set, *labels);
  const auto tokenizer = o.ids ? nullptr : tokenizer_of(set, o.tokenizer);
  require(o.document < set.documents(), "{}: has {} documents; wanted one below that, not {}",
          set.prefix(), set.documents(), o.document);
  const std::int64_t end = o.document + std::min(o.count, set.documents() - o.document);
  for (std::int64_t d = o.document; d < end; ++d) {
    auto ids = set.read(d);
    fmt::print(stderr, "document {}, {} tokens\n", d, ids.size());
    if (static_cast<std::int64_t>(ids.size()) > o.tokens) {
      ids.resize(static_cast<std::size_t>(o.tokens));
    }
    if (labels) {
      labels->read_labels(d, 0, ids);
      fmt::print("{}\n", fmt::join(ids, " "));
      continue;
    }
    if (tokenizer == nullptr) {
      fmt::print("{}\n", fmt::join(ids, " "));
    } else {
      fmt::print("{}\n", tokenizer->decode(ids));
    }
  }
}

void stats(const std::string& named, std::int64_t sequence_length, bool as_json) {
  const TokenDataset set = TokenDataset::open(named);
  const auto info = read_dataset_info(set.prefix());
  const auto labels = labels_of(set);
  const auto s = dataset_statistics(set, info ? info->end_id : -1, labels ? &*labels : nullptr);
  nlohmann::ordered_json j;
  j["documents"] = s.documents;
  j["tokens"] = s.tokens;
  if (labels) j["labelled tokens"] = s.labelled;
  j["type"] = name_of(set.index().type());
  j["tokens a document"] = {{"least", s.shortest},
                            {"median", s.median},
                            {"mean", s.mean},
                            {"90%", s.ninetieth},
                            {"most", s.longest}};
  j["empty documents"] = s.empty;
  j["largest id"] = s.largest_id;
  if (info) {
    j["tokenizer"] = info->tokenizer;
    j["vocabulary"] = info->vocabulary;
    j["bytes a token"] = static_cast<double>(info->text_bytes) /
                         static_cast<double>(std::max<std::int64_t>(s.tokens, 1));
    j["documents ending in the end token"] = s.ending_in_end_id;
  }
  j["samples of " + std::to_string(sequence_length)] =
      std::max<std::int64_t>(0, (s.tokens - 1) / sequence_length);
  if (as_json) {
    fmt::print("{}\n", j.dump(2));
    return;
  }
  for (const auto& [key, value] : j.items()) {
    if (!value.is_object()) {
      fmt::print("{:<36} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
      continue;
    }
    std::string row;
    for (const auto& [name, number] : value.items()) {
      row += fmt::format("{} {:.6g}  ", name, number.get<double>());
    }
    fmt::print("{:<36} {}\n", key, row);
  }
}

void merge(const std::vector<std::string>& from, const std::string& prefix) {
  if (prefix.empty()) throw UsageError("give the merged dataset a name: --output PREFIX");
  if (from.size() < 2) throw UsageError("name two datasets or more to merge");
  std::int64_t total = 0;
  for (const auto& name : from) total += TokenDataset::open(name).documents();
  ProgressBar bar("merging", static_cast<double>(total), "documents");
  std::int64_t done = 0;
  merge_datasets(from, prefix, [&](std::int64_t n) { bar.update(static_cast<double>(done += n)); });
  bar.finish();
  fmt::print(stderr, "{}: {} documents\n", prefix, total);
}

void split(const std::string& from, const std::string& weights, const std::string& prefix) {
  const auto counts = split_dataset(from, weights, prefix.empty() ? dataset_prefix(from) : prefix);
  fmt::print(stderr, "{} documents for training, {} for validation, {} for testing\n", counts[0],
             counts[1], counts[2]);
}

}  // namespace

void add_data_show(CLI::App& data) {
  auto o = std::make_shared<ShowOptions>();
  CLI::App* command = data.add_subcommand("show", "Documents of a dataset, as text or ids");
  command->add_option("dataset", o->dataset, "PREFIX of prepared tokens")->required();
  command->add_option("--document", o->document, "Number of the first one")
      ->capture_default_str()
      ->check(not_negative());
  command->add_option("-n,--count", o->count, "Documents to show")
      ->capture_default_str()
      ->check(positive());
  command->add_option("--tokens", o->tokens, "Tokens of each to show at most")
      ->capture_default_str()
      ->check(positive());
  command->add_option("--tokenizer", o->tokenizer,
                      "Where to take a tokenizer from; default: the one kept with the dataset");
  CLI::Option* ids = command->add_flag("--ids", o->ids, "Ids instead of text");
  ids->excludes("--tokenizer");
  command
      ->add_flag("--labels", o->labels,
                 "Instead of the tokens, what is to be predicted of each; -100: nothing")
      ->excludes(ids, command->get_option("--tokenizer"));
  command->callback([o] { show(*o); });
}

void add_data_stats(CLI::App& data) {
  struct Options {
    std::string dataset;
    std::int64_t length = 2048;
    bool json = false;
  };
  auto o = std::make_shared<Options>();
  CLI::App* command = data.add_subcommand("stats", "Sizes of a dataset, checked throughout");
  command->add_option("dataset", o->dataset, "PREFIX of prepared tokens")->required();
  command->add_option("--sequence-length", o->length, "Tokens of a training sample")
      ->capture_default_str()
      ->check(positive());
  command->add_flag("--json", o->json, "For scripts");
  command->callback([o] { stats(o->dataset, o->length, o->json); });
}

void add_data_merge(CLI::App& data) {
  struct Options {
    std::vector<std::string> from;
    std::string output;
  };
  auto o = std::make_shared<Options>();
  CLI::App* command = data.add_subcommand("merge", "Several datasets as one, in the order given");
  command->add_option("datasets", o->from, "PREFIXes of prepared tokens");
  command->add_option("-o,--output", o->output, "PREFIX of the merged dataset");
  command->callback([o] { merge(o->from, o->output); });
}

void add_data_split(CLI::App& data) {
  struct Options {
    std::string from, split = "969,30,1", output;
  };
  auto o = std::make_shared<Options>();
  CLI::App* command = data.add_subcommand(
      "split", "A dataset as PREFIX_train, PREFIX_valid, PREFIX_test, by documents");
  command->add_option("dataset", o->from, "PREFIX of prepared tokens")->required();
  command->add_option("--split", o->split, "Weights of training, validation and test")
      ->capture_default_str();
  command->add_option("-o,--output", o->output, "PREFIX of the parts; default: the dataset's");
  command->callback([o] { split(o->from, o->split, o->output); });
}

void add_data(CLI::App& app) {
  CLI::App* data = app.add_subcommand("data", "Prepare, inspect, merge and split training data");
  data->require_subcommand(1);
  add_data_prepare(*data);
  add_data_show(*data);
  add_data_stats(*data);
  add_data_merge(*data);
  add_data_split(*data);
}

}  // namespace metala::cli
