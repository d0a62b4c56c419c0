#include "metala/train/packed_data.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>

#include "metala/base/error.h"
#include "metala/data/choose_tokenizer.h"
#include "metala/data/dataset_info.h"

namespace metala {
namespace {

std::vector<std::string> prefixes_of(const RunConfig& c) {
  std::vector<std::string> all;
  if (!c.data_path.empty()) all.push_back(dataset_prefix(c.data_path));
  for (const auto* paths : {&c.train_data_paths, &c.valid_data_paths, &c.test_data_paths}) {
    for (const auto& path : *paths) all.push_back(dataset_prefix(path));
  }
  return all;
}

// What the datasets say of themselves, which must agree.
std::optional<DatasetInfo> common_info(const std::vector<std::string>& prefixes) {
  std::optional<DatasetInfo> common;
  std::string from;
  for (const auto& prefix : prefixes) {
    const auto info = read_dataset_info(prefix);
    if (!info) continue;
    if (!common) {
      common = info;
      from = prefix;
    }
    require(info->vocabulary == common->vocabulary && info->end_id == common->end_id,
            "{}: was prepared with {} ({} ids, end {}), {} with {} ({} ids, end {}); prepare both "
            "with one tokenizer",
            prefix, info->tokenizer, info->vocabulary, info->end_id, from, common->tokenizer,
            common->vocabulary, common->end_id);
  }
  return common;
}

void settle_tokenizer(const RunConfig& c, const std::vector<std::string>& prefixes,
                      PackedData& data) {
  const auto info = common_info(prefixes);
  if (!c.tokenizer.empty()) {
    data.tokenizer = choose_tokenizer({c.tokenizer, 0}, {}, {});
  } else {
    for (const auto& prefix : prefixes) {
      if (!data.tokenizer) data.tokenizer = find_tokenizer(tokenizer_folder(prefix));
    }
  }
  if (data.tokenizer != nullptr) {
    data.vocabulary = data.tokenizer->size();
    data.end_id = data.tokenizer->eos();
    require(!info || info->vocabulary == data.vocabulary,
            "{}: was prepared with {} ({} ids), the tokenizer of this run has {}; prepare the data "
            "with it, or leave metala.tokenizer out",
            prefixes.front(), info ? info->tokenizer : "", info ? info->vocabulary : 0,
            data.vocabulary);
    for (const auto& prefix : prefixes) {
      const auto own = find_tokenizer(tokenizer_folder(prefix));
      if (own) require_same_ids(*own, prefix, *data.tokenizer, "the tokenizer of this run");
    }
  } else {
    require(c.vocab_size > 0,
            "{}: no tokenizer is kept with the data ({}.tokenizer); name one with "
            "metala.tokenizer, or give metala.vocab_size",
            prefixes.front(), prefixes.front());
    data.vocabulary = c.vocab_size;
    require(!c.eod_mask_loss, "eod_mask_loss needs a tokenizer, for its end token");
  }
}

// The labels of each dataset: those that a key names, else those that were prepared with it; empty
// strings where there are none.
std::vector<std::string> label_paths(const std::vector<std::string>& paths,
                                     const std::vector<std::string>& named) {
  if (!named.empty()) return named;
  std::vector<std::string> all;
  for (const auto& path : paths) {
    const std::string prefix = dataset_prefix(path);
    const auto info = read_dataset_info(prefix);
    all.push_back(info && info->labels ? labels_prefix(prefix) : "");
  }
  return all;
}

std::vector<double> weights_of(const RunConfig& c, const std::vector<std::string>& paths,
                               const std::vector<double>& given) {
  if (!c.weight_by_num_documents || paths.size() < 2) return given;
  std::vector<std::int64_t> documents;
  for (const auto& path : paths) documents.push_back(TokenDataset::open(path).documents());
  return weights_by_documents(documents, c.weighted_sampler_alpha);
}

}  // namespace

PackedTaskOptions PackedData::task_options(const RunConfig& c, std::int64_t groups) const {
  PackedTaskOptions o;
  o.length = c.seq_length;
  o.sequences = c.train_micro_batch_size_per_gpu;
  o.validation_batches = c.eval_iters * c.gradient_accumulation_steps * groups;
  o.vocabulary = vocabulary;
  o.end_id = end_id;
  o.mask_after_end = c.eod_mask_loss;
  o.reset_at_documents = c.reset_state_at_documents;
  if (tokenizer != nullptr) {
    for (std::int32_t id = 0; id < tokenizer->size(); ++id) {
      o.bytes_of_id.push_back(static_cast<std::int32_t>(tokenizer->bytes(id).size()));
    }
  }
  return o;
}

std::unique_ptr<PackedTask> PackedData::training_task(const RunConfig& c, std::int64_t groups) {
  return std::make_unique<PackedTask>(training, validation, task_options(c, groups));
}

std::unique_ptr<PackedTask> PackedData::test_task(const RunConfig& c, std::int64_t groups) {
  return std::make_unique<PackedTask>(SampleMix(), test, task_options(c, groups));
}

PackedData open_packed_data(RunConfig& c, const IndexMapOptions& keeping) {
  PackedData data;
  const auto prefixes = prefixes_of(c);
  for (const auto& prefix : prefixes) require_dataset(prefix);
  settle_tokenizer(c, prefixes, data);

  SampleOptions training;
  training.length = c.seq_length;
  training.seed = static_cast<std::uint32_t>(c.seed);
  training.wanted = training_samples(c);
  training.epochs = c.train_epochs;
  training.packing = packing_named(c.pack_impl);
  training.chopped = c.allow_chopped;
  SampleOptions validation = training;
  validation.epochs = 0;
  validation.wanted = validation_samples(c);
  SampleOptions test = validation;
  test.wanted = evaluation_samples(c);

  const auto kept = [&](const char* part) {
    IndexMapOptions own = keeping;
    own.part = c.index_maps ? part : "";
    return own;
  };
  if (!c.data_path.empty()) {
    const auto set = std::make_shared<const TokenDataset>(TokenDataset::open(prefixes.front()));
    const auto borders = split_documents(c.split, set->documents());
    const std::string named = label_paths({c.data_path}, {}).front();
    std::shared_ptr<const TokenDataset> labels;
    if (!named.empty()) {
      labels = std::make_shared<const TokenDataset>(TokenDataset::open(named));
    }
    data.training =
        SampleMix::of_range(set, borders[0], borders[1], training, labels, kept("train"));
    data.validation =
        SampleMix::of_range(set, borders[1], borders[2], validation, labels, kept("valid"));
    data.test = SampleMix::of_range(set, borders[2], borders[3], test, labels, kept("test"));
  } else {
    const auto mix = [&](const std::vector<std::string>& paths, const std::vector<double>& weights,
                         const SampleOptions& options, const std::vector<std::string>& labels,
                         const char* part) {
      return SampleMix::of_files(paths, weights_of(c, paths, weights), options,
                                 label_paths(paths, labels), kept(part));
    };
    data.training =
        mix(c.train_data_paths, c.train_data_weights, training, c.train_label_data_paths, "train");
    data.validation = mix(c.valid_data_paths, c.valid_data_weights, validation,
                          c.valid_label_data_paths, "valid");
    data.test = mix(c.test_data_paths, c.test_data_weights, test, c.test_label_data_paths, "test");
  }
  require(data.training.size() > 0, "{}: its split leaves no document to train on",
          prefixes.front());
  if (c.train_epochs > 0) {
    c.train_iters = data.training.size() / c.train_batch_size;
    require(c.train_iters > 0, "{} epochs of the data make {} samples, fewer than a batch of {}",
            c.train_epochs, data.training.size(), c.train_batch_size);
    if (c.lr_decay_iters == 0) {
      const double share = c.lr_decay_fraction > 0 ? c.lr_decay_fraction : 1;
      c.lr_decay_iters = static_cast<std::int64_t>(share * static_cast<double>(c.train_iters));
      c.lr_decay_fraction = 0;
    }
  }
  return data;
}

}  // namespace metala
