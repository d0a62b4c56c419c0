#include "metala/generate/conversation.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "metala/base/random.h"
#include "metala/generate/beginning.h"
#include "metala/generate/generation_config.h"
#include "metala/generate/text_stream.h"
#include "metala/io/json.h"
#include "metala/text/utf8.h"

namespace metala {
namespace {

constexpr std::size_t most_checkpoints = 64;
constexpr const char* entry = "conversation";  // of the state file's metadata

nlohmann::ordered_json description(const std::vector<Message>& messages,
                                   const GenerationOptions& options, std::uint64_t answers) {
  nlohmann::ordered_json out;
  out["messages"] = nlohmann::ordered_json::array();
  for (const auto& m : messages) out["messages"].push_back({{"role", m.role}, {"text", m.text}});
  const auto& s = options.sampling;
  out["sampling"] = {{"temperature", s.temperature},
                     {"top_k", s.top_k},
                     {"top_p", s.top_p},
                     {"min_p", s.min_p},
                     {"repetition_penalty", s.repetition_penalty},
                     {"seed", s.seed},
                     {"max_tokens", options.max_tokens}};
  out["answers"] = answers;
  return out;
}

std::string dumped(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

std::string plain_layout(const std::vector<Message>& messages) {
  std::string text;
  for (const auto& m : messages) {
    const char* name = m.role == "system" ? "System" : m.role == "user" ? "User" : "Assistant";
    // An answer begins with the space that the model draws after "Assistant:".
    text += fmt::format("{}:{}{}\n", name, m.text.starts_with(' ') ? "" : " ", m.text);
  }
  return text + "Assistant:";
}

std::vector<std::string> plain_stops() {
  return {"\nUser:", "\nSystem:", "\nAssistant:"};
}

Conversation::Conversation(const LanguageModel& model, const Tokenizer& tokenizer,
                           std::string fingerprint, ChatLayout layout)
    : model_(&model),
      tokenizer_(&tokenizer),
      fingerprint_(std::move(fingerprint)),
      layout_(std::move(layout)),
      now_{"", State(model.config(), 1, DType::f32, model.device())} {}

std::int64_t Conversation::tokens() const {
  return now_.state.tokens().front();
}

void Conversation::set_system(const std::string& text) {
  const bool had = !messages_.empty() && messages_.front().role == "system";
  if (had) messages_.erase(messages_.begin());
  if (!text.empty()) messages_.insert(messages_.begin(), {"system", text});
}

std::string Conversation::answer(const std::string& user, const Show& show) {
  const auto before = messages_;
  messages_.push_back({"user", user});
  try {
    return draw(show);
  } catch (...) {
    messages_ = before;
    throw;
  }
}

std::string Conversation::regenerate(const Show& show) {
  require(!messages_.empty() && messages_.back().role != "system",
          "there is no answer to draw again");
  const auto before = messages_;
  if (messages_.back().role == "assistant") messages_.pop_back();
  try {
    return draw(show);
  } catch (...) {
    messages_ = before;
    throw;
  }
}

std::string Conversation::undo() {
  const auto user = std::find_if(messages_.rbegin(), messages_.rend(),
                                 [](const Message& m) { return m.role == "user"; });
  require(user != messages_.rend(), "there is nothing to undo");
  const std::string text = user->text;
  const std::vector<Message> rest(messages_.begin(), user.base() - 1);
  // Layouts need not take a conversation in which nothing was said yet.
  const bool begun =
      std::any_of(rest.begin(), rest.end(), [](const Message& m) { return m.role != "system"; });
  rewind(begun ? layout_(rest) : "");
  messages_ = rest;
  return text;
}

void Conversation::clear() {
  std::erase_if(messages_, [](const Message& m) { return m.role != "system"; });
  rewind("");
}

void Conversation::keep(std::string text) {
  now_.text = std::move(text);
  checkpoints_.push_back({now_.text, now_.state.copy()});
  if (checkpoints_.size() > most_checkpoints) checkpoints_.pop_front();
}

// Sets `now_` to the checkpoint with the longest beginning of `text`, or to the start.
void Conversation::rewind(const std::string& text) {
  const Checkpoint* best = nullptr;
  for (const auto& c : checkpoints_) {
    if (!text.starts_with(c.text)) continue;
    if (best == nullptr || c.text.size() >= best->text.size()) best = &c;
  }
  if (best == nullptr) {
    now_ = {"", State(model_->config(), 1, DType::f32, model_->device())};
  } else {
    now_ = {best->text, best->state.copy()};
  }
}

void Conversation::read_up_to(const std::string& text) {
  rewind(text);
  const bool fresh = now_.state.tokens().front() == 0;
  auto ids = tokenizer_->encode(std::string_view(text).substr(now_.text.size()),
                                {.special = true, .continues = !fresh});
  if (fresh) {
    auto before = framed ? tokenizer_->frame().before : std::vector<std::int32_t>();
    const Config& config = model_->config();
    put_beginning(ids, std::move(before), config, config.bos_token_id);
  }
  cost_.read = static_cast<std::int64_t>(ids.size());
  if (!ids.empty()) {
    Arena arena(model_->device());
    const std::vector<std::int64_t> offsets = {0, cost_.read};
    model_->advance(arena, {ids, offsets}, now_.state);
  }
}

std::string Conversation::draw(const Show& show) {
  cost_ = {};
  const std::string prompt = layout_(messages_);
  read_up_to(prompt);
  keep(prompt);

  GenerationOptions generation = options;
  // Each answer draws from a stream of its own, so that a regenerated one is another.
  const auto random = Philox(options.sampling.seed, ++answers_).block(0);
  generation.sampling.seed = (std::uint64_t{random[0]} << 32) | random[1];
  Generator generator(*model_, now_.state, {{}}, generation);
  TextStream shown(*tokenizer_, stops);
  std::string text;
  std::string drawn;    // what the state will have read behind the prompt, stop strings included
  bool spelled = true;  // and all of it: no token that adds nothing to a text
  const auto put = [&](const std::string& piece) {
    text += piece;
    return piece.empty() || show(piece);
  };
  bool go_on = true;
  while (go_on && !generator.done()) {
    const DrawnToken token = generator.next().front();
    ++cost_.drawn;
    if (generator.finish(0) == Finish::end_id) break;
    const std::string_view bytes = tokenizer_->bytes(token.id);
    spelled = spelled && !bytes.empty();
    drawn += bytes;
    go_on = put(shown.push(token.id)) && !shown.stopped();
  }
  if (!shown.stopped()) put(shown.flush());
  messages_.push_back({"assistant", text});
  // An end token that was drawn is not read: the layout of the next turn will say it again.
  if (generator.finish(0) != Finish::end_id) generator.settle();
  if (spelled && valid_utf8_prefix(drawn) == drawn.size()) {
    keep(prompt + drawn);
  } else {
    rewind(prompt);  // no text says what the state has read
  }
  return text;
}

void Conversation::save(const std::string& path) const {
  require(tokens() > 0, "{}: nothing was said yet", path);
  // The newest state, and the one before the last answer, so that it can be drawn again.
  std::vector<State> states = {now_.state};
  auto json = description(messages_, options, answers_);
  json["read"] = {now_.text};
  for (auto c = checkpoints_.rbegin(); c != checkpoints_.rend() && states.size() < 2; ++c) {
    if (c->text == now_.text) continue;
    states.push_back(c->state);
    json["read"].push_back(c->text);
  }
  State::joined(states).save(path, fingerprint_, {{entry, dumped(json)}});
}

bool Conversation::saved_in(const State::Metadata& metadata) {
  return metadata.contains(entry);
}

void Conversation::load(const std::string& path) {
  State::Metadata metadata;
  const State states =
      State::load(path, model_->config(), fingerprint_, &metadata).to(model_->device());
  require(saved_in(metadata), "{}: holds a state without a conversation", path);
  const auto json = parse_json(metadata.at(entry), path + ": conversation");
  std::vector<Message> messages;
  std::deque<Checkpoint> checkpoints;
  GenerationOptions loaded = options;
  std::uint64_t answers = 0;
  try {
    for (const auto& m : json.at("messages")) {
      messages.push_back({m.at("role").get<std::string>(), m.at("text").get<std::string>()});
    }
    const auto& s = json.at("sampling");
    for (const char* key : {"temperature", "top_k", "top_p", "min_p", "repetition_penalty"}) {
      require(s.at(key).is_number(), "{}: {} is no number", path, key);
    }
    parse_generation_config(s.dump(), path + ": sampling").apply_to(loaded);
    const auto count = [&](const nlohmann::json& of, const char* key) {
      require(of.at(key).is_number_unsigned(), "{}: {} is no whole number of 0 or more", path, key);
      return of.at(key).get<std::uint64_t>();
    };
    loaded.sampling.seed = count(s, "seed");
    loaded.max_tokens = static_cast<std::int64_t>(
        std::min<std::uint64_t>(count(s, "max_tokens"), std::numeric_limits<std::int64_t>::max()));
    answers = count(json, "answers");
    require(static_cast<std::int64_t>(json.at("read").size()) == states.batch(),
            "{}: {} texts for {} states", path, json.at("read").size(), states.batch());
    for (std::int64_t i = states.batch() - 1; i >= 0; --i) {
      checkpoints.push_back(
          {json.at("read").at(static_cast<std::size_t>(i)).get<std::string>(), states.select({i})});
    }
  } catch (const nlohmann::json::exception& e) {
    fail("{}: the conversation in it is damaged: {}", path, e.what());
  }
  sample::check(loaded.sampling);
  messages_ = std::move(messages);
  options = loaded;
  answers_ = answers;
  checkpoints_ = std::move(checkpoints);
  now_ = {checkpoints_.back().text, checkpoints_.back().state.copy()};
}

}  // namespace metala
