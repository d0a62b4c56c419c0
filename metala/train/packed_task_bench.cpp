// What a training batch of prepared data costs: 16 sequences of 2,048 tokens.
#include <benchmark/benchmark.h>

#include <filesystem>

#include "metala/data/token_writer.h"
#include "metala/train/packed_task.h"
#include "metala/train/text_task.h"

namespace metala {
namespace {

constexpr std::int64_t length = 2048, sequences = 16;

// 20 million tokens in documents of 1 to 2,000, written once for a run of the program.
std::shared_ptr<const TokenDataset> dataset() {
  static const auto set = [] {
    const auto folder =
        std::filesystem::temp_directory_path() / ("metala-bench-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder);
    const std::string prefix = (folder / "tokens").string();
    TokenWriter writer(prefix, TokenType::u16);
    std::vector<std::int32_t> tokens;
    for (std::uint64_t d = 0; d < 20000; ++d) {
      tokens.resize(1 + permuted(d, 20000, 1, 1) / 10);
      for (auto& t : tokens) t = static_cast<std::int32_t>((d * 7919) % 50000);
      writer.add(tokens);
    }
    writer.finish();
    auto opened = std::make_shared<const TokenDataset>(TokenDataset::open(prefix));
    std::filesystem::remove_all(folder);  // the mapping holds on to the files
    return opened;
  }();
  return set;
}

void packed_batch(benchmark::State& state) {
  SampleOptions samples;
  samples.length = length;
  samples.wanted = 9000;
  const auto set = dataset();
  PackedTaskOptions options;
  options.length = length;
  options.sequences = sequences;
  options.vocabulary = 50304;
  options.reset_at_documents = state.range(0) != 0;
  const PackedTask task(SampleMix::of_range(set, 0, set->documents(), samples), {}, options);
  std::int64_t index = 0;
  for (auto _ : state) benchmark::DoNotOptimize(task.training_batch(index++));
  state.SetItemsProcessed(state.iterations() * length * sequences);
}
BENCHMARK(packed_batch)
    ->Name("packed_task batch")
    ->ArgName("reset")
    ->Arg(0)
    ->Arg(1)
    ->Unit(benchmark::kMicrosecond);

void sample_index(benchmark::State& state) {
  const auto set = dataset();
  SampleOptions samples;
  samples.length = length;
  samples.wanted = 100000;
  for (auto _ : state) {
    benchmark::DoNotOptimize(SampleMix::of_range(set, 0, set->documents(), samples));
  }
}
BENCHMARK(sample_index)->Name("sample_index of 0.2G tokens")->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace metala
