#include "metala/model/stacks.h"

namespace metala {

std::vector<std::string> stack_of(const std::string& name,
                                  const std::map<std::string, Tensor>& tensors) {
  static const std::vector<std::vector<std::string>> stacks = {
      {"token_mixer.q_proj.weight", "token_mixer.k_gate.weight", "token_mixer.k_proj.weight",
       "token_mixer.v_proj.weight", "token_mixer.g_proj.weight"},
      {"channel_mixer.l1.weight", "channel_mixer.l2.weight"}};
  for (const auto& stack : stacks) {
    for (const auto& ending : stack) {
      if (!name.ends_with(ending)) continue;
      const std::string prefix = name.substr(0, name.size() - ending.size());
      std::vector<std::string> present;
      for (const auto& other : stack) {
        if (tensors.contains(prefix + other)) present.push_back(prefix + other);
      }
      return present;
    }
  }
  return {name};
}

}  // namespace metala
