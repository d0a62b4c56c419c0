// metala inspect: what a model folder or a file of tensors holds, and what is odd about it.
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "metala/cli/commands.h"
#include "metala/cli/neox_options.h"
#include "metala/io/printable.h"
#include "metala/io/safetensors.h"
#include "metala/io/tensor_files.h"
#include "metala/io/torch_file.h"
#include "metala/model/checkpoint.h"
#include "metala/model/neox.h"
#include "metala/text/tokenizer.h"
#include "metala/train/run_folder.h"

namespace metala::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Options {
  std::string path;
  bool json = false;
  NeoxOptions neox;
};

struct Listed {
  std::string name;
  TensorInfo info;
  std::uint64_t elements = 0;
  std::uint64_t bytes = 0;
};

struct Report {
  std::string path;
  std::string format;  // "hf", "neox" or "file"
  Json config;         // as config.json; null for a file
  std::vector<Listed> tensors;
  std::string tokenizer;              // empty: none
  std::vector<std::string> notes;     // odd but harmless
  std::vector<std::string> problems;  // why the model cannot be used
};

std::uint64_t element_bits(const std::string& dtype) {
  static const std::map<std::string, std::uint64_t> bits = {
      {"F64", 64}, {"I64", 64}, {"U64", 64}, {"C64", 64},  {"C128", 128}, {"F32", 32},
      {"I32", 32}, {"U32", 32}, {"F16", 16}, {"BF16", 16}, {"I16", 16},   {"U16", 16}};
  const auto found = bits.find(dtype);
  return found == bits.end() ? 8 : found->second;
}

Listed listed(const std::string& name, TensorInfo info) {
  std::uint64_t elements = 1;
  for (const auto size : info.shape) elements *= static_cast<std::uint64_t>(size);
  const std::uint64_t bytes = elements * element_bits(info.dtype) / 8;
  return {name, std::move(info), elements, bytes};
}

void list_source(const TensorSource& source, Report& report) {
  for (const auto& name : source.names()) {
    try {
      report.tensors.push_back(listed(name, source.info(name)));
    } catch (const Error& error) {
      report.problems.push_back(error.what());
    }
  }
}

void list_checkpoint(const Checkpoint& checkpoint, Report& report) {
  report.config = Json::parse(config_json(checkpoint.config, ""));
  report.config.erase("torch_dtype");
  report.notes = checkpoint.notes;
}

void inspect_file(const std::string& path, Report& report) {
  report.format = "file";
  if (path.ends_with(".safetensors")) {
    list_source(SafetensorsFile::open(path), report);
  } else {
    list_source(TorchFile::open(path), report);
  }
}

void inspect_neox(const Options& options, Report& report) {
  report.format = "neox";
  for (const auto& [index, layer] : read_neox_layers(report.path).layers) {
    for (const auto& [name, tensor] : layer) {
      const auto& shape = tensor.shape();
      const std::string dtype = safetensors_word(tensor.dtype());
      report.tensors.push_back(
          listed(fmt::format("{:02}: {}", index, name), {dtype, {shape.begin(), shape.end()}}));
    }
  }
  list_checkpoint(load_neox(report.path, options.neox), report);
}

void inspect_folder(const std::string& folder, Report& report) {
  report.format = "hf";
  list_source(TensorFiles::open(folder), report);
  list_checkpoint(load_checkpoint(folder), report);
}

void find_tokenizer(const std::string& folder, Report& report) {
  try {
    const auto tokenizer = open_tokenizer(folder);
    report.tokenizer = tokenizer->description();
    if (report.config.is_null()) return;
    const auto vocabulary = report.config["vocab_size"].get<std::int64_t>();
    if (tokenizer->size() > vocabulary) {
      report.problems.push_back(
          fmt::format("the tokenizer has {} ids, the model {}", tokenizer->size(), vocabulary));
    }
  } catch (const Error& error) {
    report.notes.push_back(error.what());
  }
}

// Lists as much as can be read before what is wrong, and says that.
Report inspect(const Options& options) {
  Report report;
  report.path = options.path;
  if (fs::is_regular_file(options.path)) {
    refuse_neox_options(options.neox, options.path);
    inspect_file(options.path, report);
    return report;
  }
  const bool hugging_face = fs::exists(fs::path(options.path) / "config.json");
  const bool neox = !hugging_face && is_neox_folder(options.path);
  if (!neox) refuse_neox_options(options.neox, options.path);
  if (!neox) report.path = resolve_model_folder(options.path);
  try {
    if (neox) {
      inspect_neox(options, report);
    } else {
      inspect_folder(report.path, report);
    }
  } catch (const Error& error) {
    report.problems.push_back(error.what());
  }
  find_tokenizer(report.path, report);
  return report;
}

std::uint64_t total_bytes(const Report& report) {
  std::uint64_t bytes = 0;
  for (const auto& tensor : report.tensors) bytes += tensor.bytes;
  return bytes;
}

std::uint64_t total_elements(const Report& report) {
  std::uint64_t elements = 0;
  for (const auto& tensor : report.tensors) elements += tensor.elements;
  return elements;
}

Json as_json(const Report& report) {
  Json j;
  j["path"] = report.path;
  j["format"] = report.format;
  j["config"] = report.config;
  j["tensors"] = Json::array();
  for (const auto& t : report.tensors) {
    j["tensors"].push_back(
        {{"name", t.name}, {"dtype", t.info.dtype}, {"shape", t.info.shape}, {"bytes", t.bytes}});
  }
  j["elements"] = total_elements(report);
  j["bytes"] = total_bytes(report);
  j["tokenizer"] = report.tokenizer.empty() ? Json() : Json(report.tokenizer);
  j["notes"] = report.notes;
  j["problems"] = report.problems;
  return j;
}

void print(const Report& report) {
  fmt::print("{} ({})\n", report.path, report.format);
  for (const auto& [key, value] : report.config.items()) fmt::print("  {} {}\n", key, value.dump());
  std::size_t widest = 0;
  for (const auto& t : report.tensors) widest = std::max(widest, printable(t.name).size());
  for (const auto& t : report.tensors) {
    fmt::print("{:<{}}  {:>5}  {:>14}  {:>12}\n", printable(t.name), widest,
               printable(t.info.dtype), fmt::format("[{}]", fmt::join(t.info.shape, ", ")),
               t.bytes);
  }
  fmt::print("{} tensors, {} elements, {} bytes\n", report.tensors.size(), total_elements(report),
             total_bytes(report));
  if (!report.tokenizer.empty()) fmt::print("tokenizer: {}\n", one_line(report.tokenizer));
  for (const auto& note : report.notes) fmt::print("note: {}\n", one_line(note));
  for (const auto& problem : report.problems) fmt::print("problem: {}\n", one_line(problem));
}

void run(const Options& options) {
  const Report report = inspect(options);
  if (options.json) {
    fmt::print("{}\n", as_json(report).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    print(report);
  }
  require(report.problems.empty(), "{}: cannot be used as it is; see problems", report.path);
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command =
      app.add_subcommand("inspect", "Say what a model folder or a file of tensors holds");
  command
      ->add_option("path", o.path,
                   "Model folder, training run, GPT-NeoX folder, .safetensors or PyTorch file")
      ->required();
  command->add_flag("--json", o.json, "Print JSON");
  add_neox(command, o.neox);
  command->callback([options] { run(*options); });
}

}  // namespace metala::cli
