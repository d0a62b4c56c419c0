// Conversation: messages in turn, with a model that remembers them in its state.
//
// A turn costs its new tokens only, whatever came before: the state stands where the last answer
// ended. States at the borders of turns are kept as checkpoints, each with the text it has read;
// whatever happens (a new message, undo, regenerate, a changed system message), the text that the
// model must have read is laid out anew, the checkpoint that holds the longest beginning of it is
// taken, and only the rest is read. So a layout that rewrites its history costs time, never
// correctness.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "metala/generate/generator.h"
#include "metala/model/language_model.h"
#include "metala/text/tokenizer.h"

namespace metala {

struct Message {
  std::string role;  // "system", "user", "assistant"
  std::string text;
  bool operator==(const Message&) const = default;
};

// The text before the model's next answer, all messages included: a chat template, or plain_layout.
using ChatLayout = std::function<std::string(const std::vector<Message>&)>;

// For models without a template: "System: ...\nUser: ...\nAssistant:"; `plain_stops` end an answer.
std::string plain_layout(const std::vector<Message>&);
std::vector<std::string> plain_stops();

class Conversation {
 public:
  // Called with each piece of an answer as it comes; false ends the answer there.
  using Show = std::function<bool(std::string_view piece)>;

  struct Cost {
    std::int64_t read = 0;   // tokens of prompt read for the last answer
    std::int64_t drawn = 0;  // and tokens drawn
  };

  // Model and tokenizer must outlive the conversation. The fingerprint (checkpoint.h) marks saved
  // conversations.
  Conversation(const LanguageModel&, const Tokenizer&, std::string fingerprint, ChatLayout);

  GenerationOptions options;       // of the next answers; the seed changes from answer to answer
  std::vector<std::string> stops;  // an answer ends before any of these
  // The layout writes no special tokens: what the tokenizer puts before a text goes before it.
  bool framed = false;

  const std::vector<Message>& messages() const { return messages_; }
  std::int64_t tokens() const;  // that the state has read
  Cost cost() const { return cost_; }

  void set_system(const std::string& text);  // empty: none
  // Adds a message and draws the answer to it. If drawing fails the message is taken back.
  std::string answer(const std::string& user, const Show&);
  // Draws another answer to the last message. Throws Error when there is none.
  std::string regenerate(const Show&);
  // Takes back the last message of the user and its answer; returns what it was, to edit.
  std::string undo();
  void clear();  // all but the system message

  // A state file (model/state.h) that `metala generate --load-state` reads too, with the messages
  // in its metadata. `load` replaces messages, options and seed; the file is checked as a whole
  // before anything changes.
  void save(const std::string& path) const;
  void load(const std::string& path);
  // Whether a state file with this metadata is a saved conversation: then its first sequence is
  // where the conversation stands, its second (if there) where the last answer began.
  static bool saved_in(const State::Metadata&);

 private:
  struct Checkpoint {
    std::string text;
    State state;
  };

  std::string draw(const Show&);
  void rewind(const std::string& text);
  void read_up_to(const std::string& text);
  void keep(std::string text);

  const LanguageModel* model_;
  const Tokenizer* tokenizer_;
  std::string fingerprint_;
  ChatLayout layout_;
  std::vector<Message> messages_;
  std::deque<Checkpoint> checkpoints_;  // oldest first
  Checkpoint now_;                      // where the state stands
  std::uint64_t answers_ = 0;           // drawn so far, undone ones too
  Cost cost_;
};

}  // namespace metala
