// Continues a few token ids greedily, then forks the state and continues both ways.
//
//   greedy MODEL_FOLDER ID [ID...]
#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "metala/model/checkpoint.h"
#include "metala/model/language_model.h"

namespace {

std::int32_t likeliest(const metala::State& state, std::int64_t sequence) {
  const metala::Tensor row = state.logits().row(sequence);
  const float* logits = row.data<float>();
  return static_cast<std::int32_t>(std::max_element(logits, logits + row.count()) - logits);
}

void run(const std::string& folder, const std::vector<std::int32_t>& prompt) {
  const metala::Checkpoint checkpoint = metala::load_checkpoint(folder);
  const metala::LanguageModel model(checkpoint.config, metala::Parameters(checkpoint.tensors));

  metala::Arena arena;
  metala::State state(model.config(), 1);
  const std::vector<std::int64_t> whole = {0, static_cast<std::int64_t>(prompt.size())};
  model.advance(arena, {prompt, whole}, state);

  const metala::State fork = state.copy();  // a few KiB to MiB, whatever the prompt's length
  const std::vector<std::int64_t> one = {0, 1};
  for (int i = 0; i < 8; ++i) {
    const std::vector<std::int32_t> next = {likeliest(state, 0)};
    std::printf("%d ", next[0]);
    model.advance(arena, {next, one}, state);
  }
  std::printf("\nthe fork still stands at %lld tokens and would continue with %d\n",
              static_cast<long long>(fork.tokens()[0]), likeliest(fork, 0));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: greedy MODEL_FOLDER ID [ID...]\n");
    return 2;
  }
  try {
    std::vector<std::int32_t> prompt;
    for (int i = 2; i < argc; ++i) prompt.push_back(std::stoi(argv[i]));
    run(argv[1], prompt);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "greedy: %s\n", error.what());
    return 1;
  }
}
