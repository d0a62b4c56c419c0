// metala generate: continue prompts.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "metala/cli/commands.h"
#include "metala/cli/loaded_model.h"
#include "metala/cli/sampling_options.h"
#include "metala/generate/beginning.h"
#include "metala/generate/conversation.h"
#include "metala/generate/generation_config.h"
#include "metala/generate/generator.h"
#include "metala/generate/text_stream.h"
#include "metala/io/file.h"
#include "metala/io/json.h"

namespace metala::cli {
namespace {

constexpr const char* seen_entry = "seen";  // of the state file's metadata

using Clock = std::chrono::steady_clock;
using nlohmann::ordered_json;

struct Options {
  std::string folder, device = "cpu";
  std::vector<std::string> prompts;
  std::vector<std::string> prompt_files;
  std::string prompt_lines;
  GenerationConfig asked;  // over generation_config.json's
  std::int32_t log_probabilities = -1;
  std::vector<std::string> stops;
  bool greedy = false;
  bool ignore_end = false;
  std::optional<std::uint64_t> seed;  // none: a random one
  std::string save_state, load_state;
  bool json = false;
  bool quiet = false;
};

struct Times {
  double load = 0, prefill = 0, decode = 0;
  std::int64_t prompt_tokens = 0, drawn_tokens = 0;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<std::string> read_prompts(const Options& o) {
  constexpr std::size_t most_bytes = std::size_t{1} << 30;
  std::vector<std::string> prompts = o.prompts;
  for (const auto& path : o.prompt_files) prompts.push_back(read_file(path, most_bytes));
  if (!o.prompt_lines.empty()) {
    std::istringstream lines(read_file(o.prompt_lines, most_bytes));
    for (std::string line; std::getline(lines, line);) prompts.push_back(line);
  }
  const bool piped = isatty(STDIN_FILENO) == 0;
  if (prompts.empty() && piped && o.load_state.empty()) {
    prompts.emplace_back(std::istreambuf_iterator<char>(std::cin),
                         std::istreambuf_iterator<char>());
  }
  for (auto& prompt : prompts) {
    if (prompt == "-") {
      prompt.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
    }
  }
  if (prompts.empty() && o.load_state.empty()) {
    throw UsageError("no prompt: give one as argument, with --prompt-file, or on standard input");
  }
  return prompts;
}

std::string finish_name(Finish finish) {
  switch (finish) {
    case Finish::end_id:
      return "end";
    case Finish::length:
      return "length";
    case Finish::stopped:
      return "stop";
    case Finish::running:
      break;
  }
  return "running";
}

// One sequence's text on its way to the reader.
struct Output {
  TextStream stream;
  std::string text;
  ordered_json tokens = ordered_json::array();
};

class Generation {
 public:
  explicit Generation(const Options& options) : options_(options) {}

  void run() {
    auto start = Clock::now();
    const auto prompts = read_prompts(options_);
    LoadedModel loaded = load_model(options_.folder, {true, options_.device});
    file_ = load_generation_config(loaded.folder);
    times_.load = seconds_since(start);

    arena_ = Arena(loaded.model.device());
    start = Clock::now();
    const auto histories = read(loaded, prompts);
    times_.prefill = seconds_since(start);

    start = Clock::now();
    draw(loaded, histories);
    times_.decode = seconds_since(start);
    report(loaded, prompts);
  }

 private:
  // Prepares the state and reads the prompts into it; returns the ids that each sequence has seen.
  std::vector<std::vector<std::int32_t>> read(const LoadedModel& loaded,
                                              const std::vector<std::string>& prompts) {
    const Config& config = loaded.model.config();
    std::vector<std::vector<std::int32_t>> histories;
    std::vector<std::vector<std::int32_t>> seen;  // before this, of each sequence
    const EncodeOptions encoding{.special = true, .continues = !options_.load_state.empty()};
    for (const auto& prompt : prompts) {
      histories.push_back(loaded.tokenizer->encode(prompt, encoding));
    }
    if (!options_.load_state.empty()) {
      State::Metadata metadata;
      state_ = State::load(options_.load_state, config, loaded.fingerprint(), &metadata);
      seen = seen_before(metadata, state_.batch());
      if (Conversation::saved_in(metadata)) state_ = state_.select({0});  // where it stands
      state_ = state_.to(loaded.model.device());
      if (histories.empty()) histories.resize(static_cast<std::size_t>(state_.batch()));
      if (state_.batch() == 1 && histories.size() > 1) {
        state_ = state_.select(std::vector<std::int64_t>(histories.size(), 0));  // a fork for each
        seen.assign(histories.size(), seen.front());
      }
      require(static_cast<std::int64_t>(histories.size()) == state_.batch(),
              "generate: {} prompts for {}, which holds {} sequences", histories.size(),
              options_.load_state, state_.batch());
    } else {
      state_ = State(config, static_cast<std::int64_t>(histories.size()), DType::f32,
                     loaded.model.device());
      begins_.resize(histories.size());
      for (std::size_t i = 0; i < histories.size(); ++i) {
        begins_[i] = histories[i].empty();
        put_beginning(histories[i], loaded.tokenizer->frame().before, config,
                      file_.bos_token_id.value_or(config.bos_token_id));
      }
    }
    std::vector<std::int32_t> ids;
    std::vector<std::int64_t> offsets = {0};
    for (const auto& history : histories) {
      ids.insert(ids.end(), history.begin(), history.end());
      offsets.push_back(static_cast<std::int64_t>(ids.size()));
    }
    times_.prompt_tokens = static_cast<std::int64_t>(ids.size());
    if (!ids.empty()) loaded.model.advance(arena_, {ids, offsets}, state_);
    for (std::size_t i = 0; i < std::min(seen.size(), histories.size()); ++i) {
      histories[i].insert(histories[i].end(), seen[i].begin(), seen[i].end());
    }
    return histories;
  }

  // The ids that a saved state's sequences have seen, for the repetition penalty; none where it
  // does not say.
  std::vector<std::vector<std::int32_t>> seen_before(const State::Metadata& metadata,
                                                     std::int64_t sequences) const {
    std::vector<std::vector<std::int32_t>> seen(static_cast<std::size_t>(sequences));
    const auto entry = metadata.find(seen_entry);
    if (entry == metadata.end()) return seen;
    const std::string what = fmt::format("{}: {}", options_.load_state, seen_entry);
    const auto json = parse_json(entry->second, what);
    require(json.is_array() && json.size() == seen.size(), "{}: wanted {} lists of ids", what,
            seen.size());
    for (std::size_t i = 0; i < seen.size(); ++i) {
      require(json[i].is_array(), "{}: wanted lists of ids", what);
      for (const auto& id : json[i]) {
        require(id.is_number_unsigned() && id.get<std::uint64_t>() <= 0x7fffffff,
                "{}: holds what is no id", what);
        seen[i].push_back(id.get<std::int32_t>());
      }
    }
    return seen;
  }

  // The other way round: each id once, so that it does not grow with what was read.
  std::string seen_by_now(const std::vector<std::vector<std::int32_t>>& histories) const {
    ordered_json all = ordered_json::array();
    for (std::size_t i = 0; i < histories.size(); ++i) {
      std::set<std::int32_t> ids(histories[i].begin(), histories[i].end());
      ids.insert(drawn_[i].begin(), drawn_[i].end());
      all.push_back(ids);
    }
    return all.dump();
  }

  // The defaults, over them what the model's folder says, over that what was asked for.
  GenerationOptions generation_options(const Config& config) const {
    GenerationOptions generation;
    generation.end_ids = config.eos_token_ids;
    file_.apply_to(generation);
    options_.asked.apply_to(generation);
    if (options_.greedy) generation.sampling.temperature = 0;
    if (options_.ignore_end) generation.end_ids.clear();
    generation.log_probabilities = options_.log_probabilities;
    generation.sampling.seed = options_.seed ? *options_.seed : std::random_device{}();
    return generation;
  }

  void draw(const LoadedModel& loaded, const std::vector<std::vector<std::int32_t>>& histories) {
    const GenerationOptions generation = generation_options(loaded.model.config());
    seed_ = generation.sampling.seed;
    const std::size_t count = histories.size();
    for (std::size_t i = 0; i < count; ++i) {
      const bool begins = i < begins_.size() && begins_[i];
      outputs_.push_back(
          {TextStream(*loaded.tokenizer, options_.stops, begins), "", ordered_json::array()});
    }
    const bool streams = count == 1 && !options_.json;
    Generator generator(loaded.model, state_, histories, generation);
    while (!generator.done()) {
      for (const auto& token : generator.next()) {
        ++times_.drawn_tokens;
        Output& out = outputs_[static_cast<std::size_t>(token.sequence)];
        if (generation.log_probabilities >= 0) out.tokens.push_back(describe(loaded, token));
        if (generator.finish(token.sequence) == Finish::end_id) continue;  // not part of the text
        say(out, out.stream.push(token.id), streams);
        if (out.stream.stopped()) generator.stop(token.sequence);
      }
    }
    for (auto& out : outputs_) say(out, out.stream.flush(), streams);
    if (streams) std::puts("");
    for (std::size_t i = 0; i < count; ++i) {
      finishes_.push_back(finish_name(generator.finish(static_cast<std::int64_t>(i))));
      drawn_.push_back(generator.drawn(static_cast<std::int64_t>(i)));
    }
    if (options_.save_state.empty()) return;
    generator.settle();
    state_.save(options_.save_state, loaded.fingerprint(), {{seen_entry, seen_by_now(histories)}});
  }

  static void say(Output& out, const std::string& piece, bool streams) {
    out.text += piece;
    if (!streams) return;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  }

  static ordered_json describe(const LoadedModel& loaded, const DrawnToken& token) {
    ordered_json best = ordered_json::array();
    for (const auto& [id, log_probability] : token.best) {
      best.push_back(
          {{"id", id}, {"piece", loaded.tokenizer->piece(id)}, {"logprob", log_probability}});
    }
    return {{"id", token.id},
            {"piece", loaded.tokenizer->piece(token.id)},
            {"logprob", token.log_probability},
            {"top", best}};
  }

  void report(const LoadedModel& loaded, const std::vector<std::string>& prompts) const {
    const double prefill_rate = static_cast<double>(times_.prompt_tokens) / times_.prefill;
    const double decode_rate = static_cast<double>(times_.drawn_tokens) / times_.decode;
    if (options_.json) {
      ordered_json out;
      out["model"] = loaded.folder;
      out["seed"] = seed_;
      out["sequences"] = ordered_json::array();
      for (std::size_t i = 0; i < outputs_.size(); ++i) {
        ordered_json one;
        if (i < prompts.size()) one["prompt"] = prompts[i];
        one["text"] = outputs_[i].text;
        one["ids"] = drawn_[i];
        one["finish"] = finishes_[i];
        if (!outputs_[i].tokens.empty()) one["tokens"] = outputs_[i].tokens;
        out["sequences"].push_back(one);
      }
      out["timing"] = {{"load_seconds", times_.load},
                       {"prefill_tokens", times_.prompt_tokens},
                       {"prefill_tokens_per_second", prefill_rate},
                       {"decode_tokens", times_.drawn_tokens},
                       {"decode_tokens_per_second", decode_rate}};
      fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
      return;
    }
    if (outputs_.size() > 1) {
      for (std::size_t i = 0; i < outputs_.size(); ++i) {
        fmt::print("[{}] {}{}\n", i + 1, i < prompts.size() ? prompts[i] : "", outputs_[i].text);
      }
    }
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      const std::string which = outputs_.size() > 1 ? fmt::format("[{}] ", i + 1) : "";
      for (const auto& token : outputs_[i].tokens) {  // none unless --logprobs asks for them
        fmt::print(stderr, "{}{}\n", which,
                   token.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
      }
    }
    if (options_.quiet) return;
    fmt::print(stderr,
               "[load {:.2f} s | prompt {} tokens, {:.0f} tok/s | drawn {} tokens, {:.1f} tok/s | "
               "state {:.2f} MiB | seed {}]\n",
               times_.load, times_.prompt_tokens, prefill_rate, times_.drawn_tokens, decode_rate,
               static_cast<double>(state_.bytes()) / (1 << 20), seed_);
  }

  const Options& options_;
  GenerationConfig file_;
  Arena arena_;
  State state_;
  std::vector<bool> begins_;  // by sequence: what is drawn is the beginning of the text
  std::vector<Output> outputs_;
  std::vector<std::string> finishes_;
  std::vector<std::vector<std::int32_t>> drawn_;
  std::uint64_t seed_ = 0;
  Times times_;
};

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command = app.add_subcommand("generate", "Continue one prompt or many");
  command->add_option("model", o.folder, "Model folder, or a training run's folder")->required();
  command->add_option("prompt", o.prompts, "Prompts; - reads one from standard input");
  command->add_option("--prompt-file", o.prompt_files, "A file that is one prompt; repeatable");
  command->add_option("--prompt-lines", o.prompt_lines, "A file with a prompt on each line");
  add_sampling_options(command, o.asked, o.stops, GenerationOptions(), not_negative());
  CLI::Option* greedy = command->add_flag("--greedy", o.greedy, "Always take the likeliest token");
  for (const char* drawing : {"--temperature", "--top-k", "--top-p", "--min-p"}) {
    greedy->excludes(command->get_option(drawing));
  }
  command->add_flag("--ignore-end", o.ignore_end, "Do not stop at the end-of-text token");
  command->add_option("--seed", o.seed, "Seed of the draw; default: a random one, printed")
      ->check(seed());
  command
      ->add_option("--logprobs", o.log_probabilities,
                   "Report each token's log-probability and the n likeliest")
      ->check(CLI::Range(0, 100));
  command->add_option("--load-state", o.load_state,
                      "Start from a saved state (forked for many prompts)");
  command->add_option("--save-state", o.save_state, "Save the state after the last token");
  add_device(command, o.device);
  command->add_flag("--json", o.json, "Print one JSON object instead of text");
  command->add_flag("-q,--quiet", o.quiet, "No timing line");
  command->callback([options] { Generation(*options).run(); });
}

}  // namespace metala::cli
