// Jinja's grammar, without inheritance and includes: one template is all there is.
#pragma once

#include <string_view>

#include "metala/text/jinja_ast.h"

namespace metala::jinja {

// Throws Error "line N: what is wrong" for what is not a template, or nests deeper than 100.
Body parse(std::string_view source);

}  // namespace metala::jinja
