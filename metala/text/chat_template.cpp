#include "metala/text/chat_template.h"

#include <utility>

#include "metala/base/error.h"
#include "metala/io/printable.h"

namespace metala {
namespace {

jinja::Template parse_template(const std::string& source, const std::string& origin) {
  try {
    return jinja::Template(source);
  } catch (const Error& e) {
    fail("{}: {}", origin, one_line(e.what()));
  }
}

void require_objects(const nlohmann::ordered_json& list, const char* name) {
  require(list.is_array(), "chat: {} is not a list", name);
  for (std::size_t i = 0; i < list.size(); ++i) {
    require(list[i].is_object(), "chat: {}[{}] is not an object", name, i);
  }
}

}  // namespace

ChatTemplate::ChatTemplate(const std::string& source, std::string origin,
                           nlohmann::ordered_json special_tokens)
    : main_{parse_template(source, origin), std::move(origin)},
      special_tokens_(std::move(special_tokens)) {}

void ChatTemplate::add_tool_use(const std::string& source, const std::string& origin) {
  tool_use_ = Named{parse_template(source, origin), origin};
}

std::string ChatTemplate::render(const ChatRequest& request,
                                 const jinja::RenderOptions& options) const {
  require_objects(request.messages, "messages");
  if (!request.tools.is_null()) require_objects(request.tools, "tools");
  if (!request.documents.is_null()) require_objects(request.documents, "documents");
  require(request.extras.is_object(), "chat: extras are not an object");
  nlohmann::ordered_json variables = special_tokens_;
  for (const auto& [name, value] : request.extras.items()) variables[name] = value;
  variables["messages"] = request.messages;
  variables["tools"] = request.tools;
  variables["documents"] = request.documents;
  variables["add_generation_prompt"] = request.add_generation_prompt;
  const Named& chosen = tool_use_ && !request.tools.is_null() ? *tool_use_ : main_;
  try {
    return chosen.body.render(variables, options);
  } catch (const Error& e) {
    fail("{}: {}", chosen.origin, one_line(e.what()));
  }
}

}  // namespace metala
