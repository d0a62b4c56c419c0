#include "metala/cli/line_editor.h"

#include <histedit.h>
#include <langinfo.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <iostream>

namespace metala::cli {

struct LineEditor::Terminal {
  std::string prompt;
  std::string history_file;
  EditLine* editor = nullptr;
  History* history = nullptr;

  static char* prompt_of(EditLine* editor) {
    Terminal* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return self->prompt.data();
  }
};

namespace {

// libedit reads characters, not bytes: of a locale that says which bytes they are. Bare machines
// and containers have none, and there it would drop what is not ASCII.
void read_utf8() {
  std::setlocale(LC_CTYPE, "");
  if (std::string(nl_langinfo(CODESET)) != "UTF-8") std::setlocale(LC_CTYPE, "C.UTF-8");
}

}  // namespace

LineEditor::LineEditor(const std::string& history_file) {
  if (isatty(STDIN_FILENO) == 0 || isatty(STDOUT_FILENO) == 0) return;
  read_utf8();
  terminal_ = std::make_unique<Terminal>();
  Terminal& t = *terminal_;
  t.history_file = history_file;
  t.editor = el_init("metala", stdin, stdout, stderr);
  t.history = history_init();
  HistEvent event;
  history(t.history, &event, H_SETSIZE, 1000);
  history(t.history, &event, H_SETUNIQUE, 1);
  if (!history_file.empty()) history(t.history, &event, H_LOAD, history_file.c_str());
  el_set(t.editor, EL_CLIENTDATA, &t);
  el_set(t.editor, EL_PROMPT, &Terminal::prompt_of);
  el_set(t.editor, EL_EDITOR, "emacs");
  el_set(t.editor, EL_HIST, history, t.history);
  el_set(t.editor, EL_SIGNAL, 0);
}

LineEditor::~LineEditor() {
  if (terminal_ == nullptr) return;
  HistEvent event;
  if (!terminal_->history_file.empty()) {
    history(terminal_->history, &event, H_SAVE, terminal_->history_file.c_str());
  }
  history_end(terminal_->history);
  el_end(terminal_->editor);
}

LineEditor::Line LineEditor::read(const std::string& prompt) {
  Line line;
  if (terminal_ == nullptr) {
    if (std::getline(std::cin, line.text)) line.event = Event::line;
    return line;
  }
  terminal_->prompt = prompt;
  int count = 0;
  errno = 0;
  const char* text = el_gets(terminal_->editor, &count);
  if (text == nullptr || count <= 0) {
    line.event = errno == EINTR ? Event::interrupted : Event::end;
    if (line.event == Event::interrupted) el_reset(terminal_->editor);
    std::fputc('\n', stdout);
    return line;
  }
  line.event = Event::line;
  line.text.assign(text, static_cast<std::size_t>(count));
  HistEvent event;
  if (line.text.find_first_not_of(" \t\n") != std::string::npos) {
    history(terminal_->history, &event, H_ENTER, text);
  }
  if (line.text.ends_with('\n')) line.text.pop_back();
  return line;
}

}  // namespace metala::cli
