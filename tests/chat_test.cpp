// metala chat at a terminal: what a person types, and what comes back.
#include <pty.h>
#include <signal.h>
#include <sys/select.h>
#include <termios.h>
#include <unistd.h>

#include <chrono>
#include <initializer_list>

#include "program.h"

namespace metala {
namespace {

using namespace program;

// A terminal in which `metala chat` runs with the model that ships here.
class Terminal {
 public:
  // `options` as words; `locale` is LC_ALL, empty: none of it.
  Terminal(const std::string& options, const std::string& locale) {
    const std::string line = std::string("exec ") + METALA_PROGRAM + " chat " METALA_SOURCE_DIR +
                             "/models/debian-en " + options;
    program_ = forkpty(&terminal_, nullptr, nullptr, nullptr);
    if (program_ == 0) {
      for (const char* name : {"LANG", "LC_ALL", "LC_CTYPE"}) unsetenv(name);
      if (!locale.empty()) setenv("LC_ALL", locale.c_str(), 1);
      setenv("TERM", "dumb", 1);
      setenv("XDG_STATE_HOME", (folder_ / "").c_str(), 1);
      execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
      _exit(127);
    }
  }
  ~Terminal() {
    if (program_ > 0) kill(program_, SIGKILL);
    close(terminal_);
    if (program_ > 0) waitpid(program_, nullptr, 0);
  }

  // Once the terminal is the line editor's: that prints its prompt a moment before, and a Ctrl-D in
  // between would end a line of the terminal's own.
  void type(const std::string& text) {
    termios mode = {};
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    while (tcgetattr(terminal_, &mode) == 0 && (mode.c_lflag & ICANON) != 0) {
      ASSERT_LT(std::chrono::steady_clock::now(), until) << "the line editor does not come";
      usleep(1000);
    }
    press(text);
  }
  void press(const std::string& keys) {  // at any time
    seen_.clear();
    ASSERT_EQ(write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }

  // Until these have come, one after the other, since what was typed last.
  testing::AssertionResult shows(std::initializer_list<const char*> wanted,
                                 std::chrono::seconds patience = std::chrono::seconds(120)) {
    const auto until = std::chrono::steady_clock::now() + patience;
    std::size_t from = 0;
    for (const std::string words : wanted) {
      std::size_t at = 0;
      while ((at = seen_.find(words, from)) == std::string::npos) {
        if (std::chrono::steady_clock::now() > until || !read_more()) {
          return testing::AssertionFailure() << "no \"" << words << "\" in:\n" << seen_;
        }
      }
      from = at + words.size();
    }
    return testing::AssertionSuccess();
  }

  // Its exit status once it has left; -1: it stays.
  int left() {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    while (read_more()) {
      if (std::chrono::steady_clock::now() > until) return -1;
    }
    int status = 0;
    waitpid(program_, &status, 0);
    program_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  std::string history() const { return slurp(folder_ / "metala/chat_history"); }

 private:
  bool read_more() {
    fd_set ready;
    FD_ZERO(&ready);
    FD_SET(terminal_, &ready);
    timeval a_while = {1, 0};
    if (select(terminal_ + 1, &ready, nullptr, nullptr, &a_while) == 0) return true;  // nothing yet
    char buffer[4096];
    const ssize_t count = read(terminal_, buffer, sizeof(buffer));
    if (count <= 0) return false;  // the program has left
    seen_.append(buffer, static_cast<std::size_t>(count));
    return true;
  }

  Folder folder_;
  int terminal_ = -1;
  pid_t program_ = -1;
  std::string seen_;
};

TEST(ChatAtATerminal, CommandsAnswerAndLinesAreRemembered) {
  Terminal chat("-n 3 --temperature 0", "C.UTF-8");
  ASSERT_TRUE(chat.shows({"13.8M parameters", "> "}));
  chat.type("What is a kernel?\n");
  ASSERT_TRUE(chat.shows({"tokens read, ", " in all]", "> "}));
  chat.type("/regenerate\n");
  ASSERT_TRUE(chat.shows({"[0 tokens read, ", "> "}));
  chat.type("/fork other\n");
  ASSERT_TRUE(chat.shows({"\n", "other> "}));
  chat.type("/frobnicate\n");
  ASSERT_TRUE(chat.shows({"/frobnicate is not a command; /help lists them", "other> "}));
  chat.type("/clear\n");
  ASSERT_TRUE(chat.shows({"[0 messages, 0 tokens]", "other> "}));
  chat.type("/help\n");
  ASSERT_TRUE(chat.shows({"/system TEXT", "an answer, not the program.", "other> "}));
  chat.type("\x04");  // Ctrl-D
  EXPECT_EQ(chat.left(), 0);
  EXPECT_NE(chat.history().find("kernel?"), std::string::npos) << chat.history();
}

TEST(ChatAtATerminal, LettersBeyondAsciiArriveInAnyLocale) {
  for (const char* locale : {"C.UTF-8", "C", ""}) {
    Terminal chat("-n 1 --temperature 0", locale);
    ASSERT_TRUE(chat.shows({"> "}));
    chat.type("Grüße, 世界 😀\n");
    ASSERT_TRUE(chat.shows({" in all]", "> "}));
    chat.type("/undo\n");
    EXPECT_TRUE(chat.shows({"took back: Grüße, 世界 😀"})) << locale;
  }
}

TEST(ChatAtATerminal, AnInterruptEndsAnAnswerAndNotTheProgram) {
  Terminal chat("-n 100000000 --temperature 0", "C.UTF-8");
  ASSERT_TRUE(chat.shows({"> "}));
  // At the prompt; one that comes before the program waits for a line changes nothing.
  bool asked_again = false;
  for (int i = 0; i < 50 && !asked_again; ++i) {
    chat.press("\x03");
    asked_again = static_cast<bool>(chat.shows({"> "}, std::chrono::seconds(2)));
  }
  ASSERT_TRUE(asked_again);
  chat.type("/params repetition_penalty 0.2\n");  // answers that have no end of their own
  ASSERT_TRUE(chat.shows({"repetition_penalty 0.2", "> "}));
  chat.type("Go on\n");
  ASSERT_TRUE(chat.shows({"Go on\r\n"}));
  chat.press("\x03");
  ASSERT_TRUE(chat.shows({" in all]", "> "}));
  chat.type("/undo\n");
  ASSERT_TRUE(chat.shows({"took back: Go on", "> "}));
  chat.type("/exit\n");
  EXPECT_EQ(chat.left(), 0);
}

}  // namespace
}  // namespace metala
