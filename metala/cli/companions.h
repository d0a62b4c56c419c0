// Files of a model folder that say how the model is used: which tokens end a text and how they are
// drawn, how a conversation is laid out. They go along when a model is written anew.
#pragma once

#include <map>
#include <string>

namespace metala::cli {

// generation_config.json and the chat template of a folder, those that there are, by their names.
using Companions = std::map<std::string, std::string>;
Companions read_companions(const std::string& folder);
void write_companions(const Companions&, const std::string& folder);

}  // namespace metala::cli
