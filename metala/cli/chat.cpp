// metala chat: a conversation at a terminal or through a pipe.
#include <fmt/format.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "metala/cli/commands.h"
#include "metala/cli/line_editor.h"
#include "metala/cli/loaded_model.h"
#include "metala/cli/sampling_options.h"
#include "metala/generate/conversation.h"
#include "metala/generate/generation_config.h"
#include "metala/io/printable.h"
#include "metala/text/chat_template.h"

namespace metala::cli {
namespace {

struct Options {
  std::string folder, device = "cpu";
  std::string system;
  std::string load;
  GenerationConfig asked;  // over generation_config.json's
  std::vector<std::string> stops;
  std::optional<std::uint64_t> seed;  // none: a random one
  bool plain = false;
  bool quiet = false;
};

std::atomic<bool> interrupted{false};

void on_interrupt(int) {
  interrupted = true;
}

// Without SA_RESTART, so that a read of the terminal returns.
void catch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  sigaction(SIGINT, &action, nullptr);
}

std::string history_file() {
  const auto value = [](const char* variable) {
    const char* text = std::getenv(variable);
    return std::string(text == nullptr ? "" : text);
  };
  const std::string state = value("XDG_STATE_HOME"), home = value("HOME");  // empty: as if not set
  if (state.empty() && home.empty()) return "";
  const std::filesystem::path folder =
      (!state.empty() ? std::filesystem::path(state)
                      : std::filesystem::path(home) / ".local" / "state") /
      "metala";
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  return failure ? "" : (folder / "chat_history").string();
}

constexpr const char* help_text =
    "  /system TEXT     set the system message (none: remove it)\n"
    "  /regenerate      draw another answer to the last message\n"
    "  /undo            take back the last message and its answer\n"
    "  /clear           forget everything but the system message\n"
    "  /fork NAME       go on in a copy called NAME, or return to it; no name: list them\n"
    "  /save FILE       save the conversation; /load FILE resumes it, here or elsewhere\n"
    "  /params          show the sampling; /params NAME VALUE changes it\n"
    "  /stop TEXT       end answers before TEXT too; no text: only where the model ends them\n"
    "  /help            this list\n"
    "  /exit            leave, as Ctrl-D does\n"
    "A line that ends in \\ goes on in the next. // starts a message with a slash. Ctrl-C ends\n"
    "an answer, not the program.\n";

GenerationOptions usual_options() {
  GenerationOptions usual;
  usual.max_tokens = 512;
  usual.sampling.temperature = 0.7;
  usual.sampling.top_p = 0.9;
  return usual;
}

class Chat {
 public:
  explicit Chat(const Options& options)
      : options_(options),
        loaded_(load_model(options.folder, {true, options.device})),
        editor_(history_file()) {
    const auto layout = options.plain ? std::nullopt : load_chat_template(loaded_.folder);
    Conversation conversation(loaded_.model, *loaded_.tokenizer, loaded_.fingerprint(),
                              layout ? templated(*layout) : plain_layout);
    conversation.options = usual_options();
    conversation.options.end_ids = loaded_.model.config().eos_token_ids;
    load_generation_config(loaded_.folder).apply_to(conversation.options);
    conversation.options.sampling.seed = std::random_device{}();
    if (!options.load.empty()) conversation.load(options.load);
    // What was asked for replaces also what a saved conversation says.
    options.asked.apply_to(conversation.options);
    if (options.seed) conversation.options.sampling.seed = *options.seed;
    sample::check(conversation.options.sampling);
    if (!options.system.empty()) conversation.set_system(options.system);
    if (!layout) plain_stops_ = plain_stops();
    conversation.framed = !layout;
    conversation.stops = options.stops;
    for (const auto& stop : plain_stops_) conversation.stops.push_back(stop);
    conversations_.emplace(current_, std::move(conversation));
  }

  void run() {
    catch_interrupts();
    if (editor_.interactive()) {
      fmt::print("{}: {:.1f}M parameters. /help lists commands, Ctrl-D ends.\n", loaded_.folder,
                 parameters() / 1e6);
    }
    for (;;) {
      interrupted = false;
      const auto [event, line] = read_message();
      if (event == LineEditor::Event::end) return;
      if (event == LineEditor::Event::interrupted || blank(line)) continue;
      try {
        if (line.starts_with("//")) {
          answer(line.substr(1));
        } else if (line.front() != '/') {
          answer(line);
        } else if (!command(line)) {
          return;
        }
      } catch (const Error& e) {
        if (!editor_.interactive()) throw;  // a script stops at its first error
        fmt::print(stderr, "{}\n", one_line(e.what()));
      }
    }
  }

 private:
  Conversation& here() { return conversations_.at(current_); }

  double parameters() const {
    double count = 0;
    for (const auto& [name, tensor] : loaded_.checkpoint.tensors) {
      count += static_cast<double>(tensor.count());
    }
    return count;
  }

  static bool blank(const std::string& line) {
    return line.find_first_not_of(" \t") == std::string::npos;
  }

  LineEditor::Line read_message() {
    LineEditor::Line whole = editor_.read(current_ == "main" ? "> " : current_ + "> ");
    while (whole.event == LineEditor::Event::line && whole.text.ends_with('\\')) {
      const LineEditor::Line more = editor_.read(". ");
      if (more.event == LineEditor::Event::interrupted) return more;
      if (more.event == LineEditor::Event::end) {  // the next read says so again
        whole.text.pop_back();
        return whole;
      }
      whole.text.back() = '\n';
      whole.text += more.text;
    }
    return whole;
  }

  // Models begin an answer in the plain layout with a space, which is not for the reader.
  template <class Draw>
  void show_answer(Draw draw) {
    bool started = false;
    const auto show = [&](std::string_view piece) {
      if (!started) piece.remove_prefix(std::min(piece.find_first_not_of(' '), piece.size()));
      started = started || !piece.empty();
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
      return !interrupted.load();
    };
    draw(show);
    std::puts("");
    std::fflush(stdout);
    const auto cost = here().cost();
    if (options_.quiet || !editor_.interactive()) return;
    fmt::print(stderr, "[{} tokens read, {} drawn, {} in all]\n", cost.read, cost.drawn,
               here().tokens());
  }

  // What a person wants to see after a command that is otherwise silent.
  void show_size() {
    if (!editor_.interactive()) return;
    fmt::print(stderr, "[{} messages, {} tokens]\n", here().messages().size(), here().tokens());
  }

  void answer(const std::string& text) {
    show_answer([&](const Conversation::Show& show) { here().answer(text, show); });
  }

  // False: leave.
  bool command(const std::string& line) {
    const auto space = line.find(' ');
    const std::string name = line.substr(1, space == std::string::npos ? space : space - 1);
    std::string rest = space == std::string::npos ? "" : line.substr(space + 1);
    rest.erase(0, rest.find_first_not_of(' '));
    if (name == "exit" || name == "quit") return false;
    const std::map<std::string, std::function<void()>> commands = {
        {"help", [] { fmt::print("{}", help_text); }},
        {"system", [&] { here().set_system(rest); }},
        {"regenerate",
         [&] { show_answer([&](const Conversation::Show& show) { here().regenerate(show); }); }},
        {"undo", [&] { fmt::print(stderr, "took back: {}\n", here().undo()); }},
        {"clear",
         [&] {
           here().clear();
           show_size();
         }},
        {"fork", [&] { fork(rest); }},
        {"save",
         [&] {
           here().save(needed(rest, "/save FILE"));
           show_size();
         }},
        {"load",
         [&] {
           here().load(needed(rest, "/load FILE"));
           show_size();
         }},
        {"params", [&] { params(rest); }},
        {"stop", [&] { stop(rest); }},
    };
    const auto found = commands.find(name);
    require(found != commands.end(), "/{} is not a command; /help lists them", name);
    found->second();
    return true;
  }

  static const std::string& needed(const std::string& rest, const char* usage) {
    require(!rest.empty(), "wanted {}", usage);
    return rest;
  }

  void fork(const std::string& name) {
    if (name.empty()) {
      for (const auto& [other, conversation] : conversations_) {
        fmt::print("{} {}: {} messages, {} tokens\n", other == current_ ? "*" : " ", other,
                   conversation.messages().size(), conversation.tokens());
      }
      return;
    }
    if (!conversations_.contains(name)) conversations_.emplace(name, here());
    current_ = name;
  }

  void stop(const std::string& text) {
    if (text.empty()) {
      here().stops = plain_stops_;
    } else {
      here().stops.push_back(text);
    }
  }

  void params(const std::string& text) {
    GenerationOptions changed = here().options;
    auto& s = changed.sampling;
    std::istringstream words(text);
    std::string name, value, more;
    if (words >> name) {
      require((words >> value) && !(words >> more), "wanted /params NAME VALUE");
      const auto number = [&](double& to) {
        std::istringstream in(value);
        require((in >> to) && in.eof(), "{} is {}; wanted a number", name, value);
      };
      const auto whole = [&]<class T>(T& to) {
        require(is_whole<T>(value) && !value.starts_with('-'),
                "{} is {}; wanted a whole number from 0 to {}", name, value,
                std::numeric_limits<T>::max());
        std::from_chars(value.data(), value.data() + value.size(), to);
      };
      const std::map<std::string, std::function<void()>> setters = {
          {"temperature", [&] { number(s.temperature); }},
          {"top_k", [&] { whole(s.top_k); }},
          {"top_p", [&] { number(s.top_p); }},
          {"min_p", [&] { number(s.min_p); }},
          {"repetition_penalty", [&] { number(s.repetition_penalty); }},
          {"seed", [&] { whole(s.seed); }},
          {"max_tokens", [&] { whole(changed.max_tokens); }},
      };
      const auto found = setters.find(name);
      require(found != setters.end(), "{} is not a parameter; /params shows them", name);
      found->second();
      sample::check(s);
      here().options = changed;
    }
    fmt::print(
        "temperature {} | top_k {} | top_p {} | min_p {} | repetition_penalty {} | seed {} | "
        "max_tokens {}\n",
        s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty, s.seed, changed.max_tokens);
  }

  static ChatLayout templated(const ChatTemplate& layout) {
    return [layout](const std::vector<Message>& messages) {
      ChatRequest request;
      for (const auto& m : messages) {
        request.messages.push_back({{"role", m.role}, {"content", m.text}});
      }
      return layout.render(request);
    };
  }

  const Options& options_;
  LoadedModel loaded_;
  std::vector<std::string> plain_stops_;  // none where a template says how answers end
  LineEditor editor_;
  std::string current_ = "main";
  std::map<std::string, Conversation> conversations_;
};

}  // namespace

void add_chat(CLI::App& app) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command = app.add_subcommand(
      "chat", "Talk with a model; a turn costs its new tokens only, at any length");
  command->add_option("model", o.folder, "Model folder, or a training run's folder")->required();
  command->add_option("--system", o.system, "System message");
  command->add_option("--load", o.load, "Go on with a conversation that /save wrote");
  add_sampling_options(command, o.asked, o.stops, usual_options(), positive());
  command->add_flag("--plain", o.plain, "Lines of \"User: ...\" even if the folder has a template");
  command->add_option("--seed", o.seed, "Seed of the draws; default: a random one")->check(seed());
  add_device(command, o.device);
  command->add_flag("-q,--quiet", o.quiet, "No line of figures after an answer");
  command->callback([options] { Chat(*options).run(); });
}

}  // namespace metala::cli
