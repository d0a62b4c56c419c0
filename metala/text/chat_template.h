// Chat template: messages to the text that a model was trained to continue.
//
// A model folder brings it as a Jinja template (text/jinja_template.h says which part of the
// language there is). It sees messages, tools, documents, add_generation_prompt, the tokenizer's
// special tokens by name (bos_token, eos_token, ...) and what the caller adds, as the reference's
// apply_chat_template gives them. The text holds its special tokens already: encode it without
// adding any.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "metala/text/jinja_template.h"

namespace metala {

struct ChatRequest {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();  // {"role", "content", ...}
  nlohmann::ordered_json tools = nullptr;                             // a list, or null: none
  nlohmann::ordered_json documents = nullptr;                         // a list, or null: none
  bool add_generation_prompt = true;  // end with what begins the model's own message
  nlohmann::ordered_json extras = nlohmann::ordered_json::object();  // more names, by name
};

class ChatTemplate {
 public:
  // `source` is Jinja, `origin` names it in errors; `special_tokens` is an object of names to
  // texts. Throws Error "ORIGIN: line N: what is wrong", one line without control characters.
  ChatTemplate(const std::string& source, std::string origin,
               nlohmann::ordered_json special_tokens = nlohmann::ordered_json::object());

  // A template beside the main one, chosen when a request has tools.
  void add_tool_use(const std::string& source, const std::string& origin);

  // Throws Error for a request that is not formed as above, for what the template refuses
  // (raise_exception) and for a template that asks for more than `limits`.
  std::string render(const ChatRequest& request, const jinja::RenderOptions& options = {}) const;

 private:
  struct Named {
    jinja::Template body;
    std::string origin;
  };
  Named main_;
  std::optional<Named> tool_use_;
  nlohmann::ordered_json special_tokens_;
};

// The template of a model folder, nothing when it has none: chat_template.jinja, or else
// chat_template in tokenizer_config.json, which is a text or a list of {name, template} with
// "default" and perhaps "tool_use" (also additional_chat_templates/tool_use.jinja). Special tokens
// come from tokenizer_config.json and special_tokens_map.json. Throws Error
// naming the file and field that is wrong.
std::optional<ChatTemplate> load_chat_template(const std::string& folder);

}  // namespace metala
