#include "metala/train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "metala/base/error.h"
#include "metala/distributed/agreement.h"
#include "metala/io/checksum.h"
#include "metala/io/file.h"
#include "metala/io/json.h"
#include "metala/io/safetensors.h"
#include "metala/model/checkpoint.h"
#include "metala/model/neox_layers.h"

namespace metala {
namespace {

namespace fs = std::filesystem;

constexpr const char* marker = "COMPLETE";
constexpr std::size_t largest_json = std::size_t{16} << 20;

std::string folder_name(std::int64_t step) {
  return fmt::format("step-{:08}", step);
}

// The step of a folder named step-N; -1 for any other name.
std::int64_t step_of(const std::string& name) {
  constexpr std::string_view prefix = "step-";
  if (!name.starts_with(prefix) || name.size() == prefix.size() || name.size() > 23) return -1;
  const std::string digits = name.substr(prefix.size());
  if (digits.find_first_not_of("0123456789") != std::string::npos) return -1;
  return std::stoll(digits);
}

// What a marker says of a file. Markers of before there were checksums hold the size alone.
struct ListedFile {
  std::uint64_t bytes = 0;
  std::optional<std::string> crc32;
};

std::map<std::string, ListedFile> read_marker(const fs::path& folder) {
  const std::string path = (folder / marker).string();
  const auto json = parse_json(read_file(path, largest_json), path);
  std::map<std::string, ListedFile> files;
  for (const auto& [name, entry] : json.items()) {
    ListedFile& file = files[name];
    if (entry.is_object()) {
      entry.at("bytes").get_to(file.bytes);
      file.crc32 = entry.at("crc32").get<std::string>();
    } else {
      entry.get_to(file.bytes);
    }
  }
  return files;
}

std::string checksum(const fs::path& file) {
  return fmt::format("{:08x}", crc32_of_file(file.string()));
}

// Each rank leaves the checksum of its own large file beside it for the marker, so that no rank
// reads what others wrote.
constexpr const char* note_suffix = ".crc32";

void note_checksum(const fs::path& file) {
  write_file_atomically(file.string() + note_suffix, checksum(file));
}

std::string noted_checksum(const fs::path& file) {
  const fs::path note = file.string() + note_suffix;
  if (!fs::exists(note)) return checksum(file);
  const std::string noted = read_file(note.string(), 16);
  fs::remove(note);
  return noted;
}

// Whether the folder holds the files that its marker lists, at the sizes it lists.
bool complete(const fs::path& folder) {
  const fs::path path = folder / marker;
  std::error_code failure;
  if (!fs::is_regular_file(path, failure)) return false;
  try {
    for (const auto& [name, file] : read_marker(folder)) {
      if (fs::file_size(folder / name, failure) != file.bytes || failure) return false;
    }
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

std::vector<RunCheckpoint> checkpoints(const std::string& run) {
  std::vector<RunCheckpoint> all;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(run, failure)) {
    const std::int64_t step = step_of(entry.path().filename().string());
    if (step >= 0 && complete(entry.path())) all.push_back({step, entry.path().string()});
  }
  std::sort(all.begin(), all.end(),
            [](const RunCheckpoint& a, const RunCheckpoint& b) { return a.step < b.step; });
  return all;
}

std::string optimizer_file(const Communicator& ranks) {
  if (ranks.size() == 1) return "optimizer.safetensors";
  return fmt::format("optimizer-{:05}-of-{:05}.safetensors", ranks.rank(), ranks.size());
}

bool is_optimizer_file(const std::string& name) {
  return name == "optimizer.safetensors" ||
         (name.starts_with("optimizer-") && name.ends_with(".safetensors"));
}

// Sizes and checksums of all files, `ranks` of them of the optimizer.
void write_marker(const fs::path& folder, int ranks) {
  nlohmann::ordered_json listed = nlohmann::ordered_json::object();
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != note_suffix) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  const auto of_optimizer = std::count_if(files.begin(), files.end(), [](const fs::path& file) {
    return is_optimizer_file(file.filename().string());
  });
  require(of_optimizer == ranks,
          "{}: holds {} of the {} ranks' optimizer files; --output must be a folder that all "
          "ranks share",
          folder.string(), of_optimizer, ranks);
  for (const auto& file : files) {
    listed[file.filename().string()] = {{"bytes", fs::file_size(file)},
                                        {"crc32", noted_checksum(file)}};
  }
  write_file_atomically((folder / marker).string(), listed.dump(2) + "\n");
}

}  // namespace

std::optional<RunCheckpoint> newest_checkpoint(const std::string& run) {
  const auto all = checkpoints(run);
  if (all.empty()) return std::nullopt;
  return all.back();
}

RunLock::RunLock(const std::string& run) {
  const std::string path = run + "/lock";
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  require(file_ >= 0, "{}: cannot open: {}", path, std::strerror(errno));
  // A process that was just killed holds it until the last of its memory is given back.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  bool mine = flock(file_, LOCK_EX | LOCK_NB) == 0;
  while (!mine && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    mine = flock(file_, LOCK_EX | LOCK_NB) == 0;
  }
  if (!mine) {
    std::string holder(256, '\0');
    const auto length = pread(file_, holder.data(), holder.size(), 0);
    holder.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
    close(file_);
    fail("{}: {} is training in it; wait for its end, stop it, or give another --output", run,
         holder.empty() ? "another process" : holder);
  }
  std::string host(256, '\0');
  gethostname(host.data(), host.size() - 1);
  const std::string me = fmt::format("process {} on {}", getpid(), host.c_str());
  // What it says is for people; that it is locked is what counts.
  if (ftruncate(file_, 0) != 0 || pwrite(file_, me.data(), me.size(), 0) < 0) return;
}

RunLock::~RunLock() {
  close(file_);
}

namespace {

// What all ranks do, or none has done: with file names and reasons of the operating system.
void phase(Communicator& ranks, const std::string& place, const std::function<void()>& f) {
  together(ranks, [&] {
    try {
      f();
    } catch (const fs::filesystem_error& e) {
      fail("{}: cannot save: {}", place, e.what());
    }
  });
}

}  // namespace

CheckpointSave::CheckpointSave(Communicator& ranks, const std::string& run, std::int64_t step,
                               std::function<RunState()> state,
                               std::function<void(const std::string& folder)> save_tokenizer,
                               std::int64_t keep)
    : ranks_(ranks),
      run_(run),
      place_((fs::path(run) / folder_name(step)).string()),
      aside_(place_ + ".partial"),
      keep_(keep) {
  phase(ranks_, place_, [&] {
    if (ranks_.rank() != 0) return;
    std::error_code none;
    fs::remove_all(aside_, none);
    fs::create_directories(aside_);
  });
  writing_.start([this, state = std::move(state), save_tokenizer = std::move(save_tokenizer)] {
    write(state, save_tokenizer);
  });
}

void CheckpointSave::write(
    const std::function<RunState()>& state,
    const std::function<void(const std::string& folder)>& save_tokenizer) const {
  const fs::path aside = aside_;
  const RunState now = state();
  write_safetensors((aside / optimizer_file(ranks_)).string(), now.optimizer, {});
  note_checksum(aside / optimizer_file(ranks_));
  if (ranks_.rank() != 0) return;
  save_checkpoint(aside.string(), now.config, now.parameters);
  for (const auto& entry : fs::directory_iterator(aside)) {
    if (entry.path().filename().string().starts_with("model")) note_checksum(entry.path());
  }
  if (save_tokenizer) save_tokenizer(aside.string());
  write_file_atomically((aside / "trainer.json").string(), now.trainer_json);
  if (!now.configuration.empty()) {
    write_file_atomically((aside / "run.yml").string(), now.configuration);
  }
}

bool CheckpointSave::advance() {
  if (complete_) return true;
  if (ranks_.any(!writing_.ended(), "ranks that are still saving")) return false;
  complete();
  return true;
}

void CheckpointSave::finish() {
  if (!complete_) complete();
}

void CheckpointSave::complete() {
  complete_ = true;  // or failed: there is nothing more to do
  const bool first = ranks_.rank() == 0;
  try {
    phase(ranks_, place_, [&] { writing_.wait(); });
    phase(ranks_, place_, [&] {
      if (!first) return;
      write_marker(aside_, ranks_.size());
      fs::remove_all(place_);  // a folder of that name is incomplete, or this step saved before
      fs::rename(aside_, place_);
      sync_folder(run_);
    });
  } catch (...) {
    std::error_code none;
    if (first) fs::remove_all(aside_, none);
    throw;
  }
  if (!first || keep_ == 0) return;
  writing_.start([run = run_, keep = static_cast<std::size_t>(keep_)] {
    const auto all = checkpoints(run);
    std::error_code none;
    for (std::size_t i = 0; i + keep < all.size(); ++i) fs::remove_all(all[i].folder, none);
  });
}

void verify_checkpoint_of_run(const RunCheckpoint& checkpoint) {
  const fs::path folder = checkpoint.folder;
  for (const auto& [name, file] : read_marker(folder)) {
    if (!file.crc32) continue;
    const std::string found = checksum(folder / name);
    require(found == *file.crc32,
            "{}: is damaged (checksum {}, COMPLETE says {}); remove {} to go on from the "
            "checkpoint before it",
            (folder / name).string(), found, *file.crc32, checkpoint.folder);
  }
}

RunState load_checkpoint_of_run(const RunCheckpoint& from) {
  RunState state;
  const Checkpoint checkpoint = load_checkpoint(from.folder);
  state.config = checkpoint.config;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    state.parameters.emplace(name, tensor.cast(DType::f32));  // mapped memory cannot be trained
  }
  for (const auto& entry : fs::directory_iterator(from.folder)) {
    if (!is_optimizer_file(entry.path().filename().string())) continue;
    const auto file = SafetensorsFile::open(entry.path().string());
    for (const auto& [name, info] : file.tensors()) {
      state.optimizer.emplace(name, file.tensor(name));
    }
  }
  state.trainer_json = read_file(from.folder + "/trainer.json", largest_json);
  return state;
}

std::string resolve_model_folder(const std::string& named) {
  require(fs::exists(named), "{}: no such folder", named);
  if (fs::exists(fs::path(named) / "config.json")) return named;
  require(!is_neox_folder(named),
          "{}: is a checkpoint of GPT-NeoX; `metala convert {} FOLDER` makes it a model folder",
          named, named);
  const auto newest = newest_checkpoint(named);
  require(newest.has_value(),
          "{}: is neither a model folder (no config.json) nor a run with a complete checkpoint",
          named);
  return newest->folder;
}

}  // namespace metala
