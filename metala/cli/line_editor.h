// LineEditor: lines from a terminal with editing and history (libedit), or plainly from a pipe.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace metala::cli {

class LineEditor {
 public:
  // History is kept in `history_file` from one session to the next; empty: it is not kept.
  explicit LineEditor(const std::string& history_file);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  enum class Event { line, interrupted, end };
  struct Line {
    Event event = Event::end;
    std::string text;  // without the line's end
  };
  // Interrupted: Ctrl-C at the prompt (a signal whose handler returned).
  Line read(const std::string& prompt);

  bool interactive() const { return terminal_ != nullptr; }

 private:
  struct Terminal;
  std::unique_ptr<Terminal> terminal_;
};

}  // namespace metala::cli
